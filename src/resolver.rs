//! The process that asks nameservers: it looks a policy's names up, and ends. What a nameserver says is taken
//! apart here, where there is no key, no peer and no right, and nowhere else.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::{thread, vec};

use crate::control::{FromResolver, ToResolver, frame};
use crate::{sandbox, telemetry};

/// Descriptors of the process: for each name that is looked up a few sockets and a file.
pub(crate) const OPEN_FILES: u64 = 256;

/// What a host stands for, or why that was not found.
type Outcome = Result<Vec<SocketAddr>, String>;

/// Runs this process as the resolver: standard input is its supervisor.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet.
            let line = format!("fastness resolver {}: {error}\n", std::process::id());
            telemetry::write_or_drop(line.into_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    // 1. Rights are given up; then the supervisor's channel, and everything this process will ever be given.
    let entered = sandbox::enter(sandbox::Role::Resolver);
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some(ToResolver::Setup(setup)) = frame::receive(&control)? else {
        return Err(io::Error::other("the first order was not the setup"));
    };
    telemetry::start("resolver", setup.log);
    let refuse = |error: sandbox::SandboxError| {
        let faults = vec![error.into()];
        frame::send(&control, &FromResolver::Refused { faults })
    };

    // 2. Landlock, while there is one thread.
    let walled = entered.and_then(|entered| {
        entered.limit_descriptors(OPEN_FILES)?;
        entered.wall(&sandbox::Walls::of_resolver())
    });
    let walled = match walled {
        Ok(walled) => walled,
        Err(error) => return refuse(error),
    };

    // 3. Every thread exists before the seal, and waits for it.
    let lookups = Lookups::start(setup.hosts, setup.at_once)?;
    let sealed = sandbox::Profile::resolver(setup.profile.as_ref())
        .map_err(sandbox::SandboxError::from)
        .and_then(|profile| walled.seal(&profile));
    let (confined, report) = match sealed {
        Ok(sealed) => sealed,
        Err(error) => return refuse(error),
    };

    // 4. Attested, it looks the names up.
    frame::send(&control, &FromResolver::Sealed(Box::new(report)))?;
    let order: Option<ToResolver> = frame::receive(&control)?;
    #[cfg(feature = "attack-trigger")]
    let order = match order {
        Some(ToResolver::Attack(attack)) => {
            attack.run(None);
            frame::receive(&control)?
        }
        order => order,
    };
    let Some(ToResolver::LookUp) = order else {
        return Err(io::Error::other(
            "the order after the setup was not to look up",
        ));
    };
    for (host, outcome) in lookups.begin(confined) {
        frame::send(&control, &FromResolver::Found { host, outcome })?;
    }
    Ok(())
}

/// Threads that wait to look names up. They end with the process and not before: the calls that end a thread are
/// not allowed.
struct Lookups {
    begin: Arc<Barrier>,
    found: mpsc::Receiver<(String, Outcome)>,
}

impl Lookups {
    fn start(hosts: Vec<String>, at_once: usize) -> io::Result<Self> {
        let threads = hosts.len().min(at_once);
        let begin = Arc::new(Barrier::new(threads + 1));
        let names = Arc::new(Mutex::new(hosts.into_iter()));
        let (sender, found) = mpsc::channel();
        for _ in 0..threads {
            let (begin, names, found) = (Arc::clone(&begin), Arc::clone(&names), sender.clone());
            let work = move || {
                begin.wait();
                begin.wait();
                while let Some(host) = next(&names) {
                    let outcome = look_up(&host);
                    // The main thread may be about to end the process.
                    let _ = found.send((host, outcome));
                }
                drop(found);
                loop {
                    thread::park();
                }
            };
            thread::Builder::new().name("look-up".into()).spawn(work)?;
        }
        // What a thread does at its start is done.
        begin.wait();
        Ok(Self { begin, found })
    }

    /// Each name once, as it is found.
    fn begin(self, _: sandbox::Confined) -> impl Iterator<Item = (String, Outcome)> {
        self.begin.wait();
        self.found.into_iter()
    }
}

fn next(names: &Mutex<vec::IntoIter<String>>) -> Option<String> {
    names.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn look_up(host: &str) -> Outcome {
    let found = host.to_socket_addrs();
    found
        .map(Iterator::collect)
        .map_err(|error| error.to_string())
}
