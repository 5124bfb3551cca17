//! Secrets are where they must be and nowhere else: the memory of stopped processes is searched for
//! the scalars of the token's keys and for its PIN, any eight bytes of them, in both byte orders.
//!
//! Of each snapshot what a process can have written is read: writable mappings and those of no file
//! (heap, stacks, allocator); of the first one all readable mappings. It takes root, as the roles
//! cannot be read by their own user.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fastness_memory_scan::{Needles, Part, Snapshot, Stopped};
use rustix::process::Signal;

use crate::support::files::spki_of;
use crate::support::kernel::without;
use crate::support::node::signal;
use crate::support::{
    FASTNESS, FaultModule, Mesh, Node, Options, Shaker, as_root, eventually, said,
};

/// Snapshots of each process.
const SNAPSHOTS: usize = 500;
/// When the keeper was never caught with a key in its hands, it is looked at again this often.
const MOST: usize = 20 * SNAPSHOTS;

const WHY: &str = "only root reads the memory of others";

/// The secrets of node `a`: its PIN, and the scalars of its keys.
struct Secrets {
    pin: String,
    scalars: Vec<Vec<u8>>,
}

impl Secrets {
    fn of(mesh: &Mesh) -> Self {
        let pin = mesh.tokens("a").pin().trim().to_owned();
        let scalars = crate::support::scalar::scalars(&mesh.path("a/token/tokens"), &pin);
        for role in ["server", "client"] {
            let spki = spki_of(&mesh.read(&format!("a/{role}.pem")));
            let public = &spki[spki.len() - 65..];
            let fits = |scalar: &Vec<u8>| {
                use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
                let padded = [vec![0; 32 - scalar.len()], scalar.clone()].concat();
                let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
                EcdsaKeyPair::from_private_key_and_public_key(kind, &padded, public).is_ok()
            };
            assert!(scalars.iter().any(fits), "the {role} key is among them");
        }
        Self { pin, scalars }
    }

    fn needles(&self) -> Needles {
        let scalars = self
            .scalars
            .iter()
            .map(|scalar| ("scalar", scalar.as_slice()));
        Needles::new(scalars.chain([("PIN", self.pin.as_bytes())]))
    }

    /// Whether a text or file holds one of them, as it is or in hexadecimal.
    fn are_in(&self, bytes: &[u8]) -> bool {
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let scalars = self.scalars.iter().flat_map(|scalar| {
            let text = hex(scalar);
            [
                scalar.clone(),
                text.clone().into_bytes(),
                text.to_uppercase().into_bytes(),
            ]
        });
        let mut all = scalars.chain([self.pin.clone().into_bytes()]);
        all.any(|secret| bytes.windows(secret.len()).any(|window| window == secret))
    }
}

/// What the snapshots of one process showed.
#[derive(Debug, Default)]
struct Found {
    snapshots: usize,
    read: u64,
    /// Snapshots with it, by the secret's name without its order.
    with: BTreeMap<String, usize>,
}

impl Found {
    fn add(&mut self, snapshot: &Snapshot) {
        self.snapshots += 1;
        self.read += snapshot.read;
        let mut names: Vec<_> = snapshot
            .hits
            .iter()
            .map(|hit| hit.secret.split(',').next())
            .collect();
        names.dedup();
        for name in names.into_iter().flatten() {
            *self.with.entry(name.to_owned()).or_default() += 1;
        }
    }

    fn of(&self, secret: &str) -> usize {
        self.with.get(secret).copied().unwrap_or(0)
    }
}

fn look(pid: u32, needles: &Needles, part: Part) -> Snapshot {
    let stopped = Stopped::stop(pid).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    stopped
        .look_for(needles, part)
        .unwrap_or_else(|error| panic!("memory of {pid}: {error}"))
}

/// Handshakes with node `a`, without a pause, until dropped.
struct Load<'a> {
    ends: &'a AtomicBool,
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_process_but_the_keeper_ever_has_the_key_and_none_has_the_pin() {
    as_root(WHY);
    let mut mesh = Mesh::new();
    let shaker = Shaker::new(&mut mesh, "c");
    let secrets = Secrets::of(&mesh);
    let needles = secrets.needles();
    let (a, b) = mesh.start_both();
    b.ping("a");
    let pids = ["supervisor", "keeper", "node"].map(|role| (role, a.pid(role)));
    let mut found = pids.map(|(role, pid)| (role, pid, Found::default()));
    let (ends, shaken) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let load = Load { ends: &ends };
        for _ in 0..3 {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    if shaker.shake().is_ok() {
                        shaken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..MOST {
            for (role, pid, found) in &mut found {
                let enough = *role != "keeper" || found.of("scalar") > 0;
                if round >= SNAPSHOTS && enough {
                    continue;
                }
                let part = if round == 0 { Part::All } else { Part::Written };
                found.add(&look(*pid, &needles, part));
            }
            // They work meanwhile: no two snapshots show the same moment.
            thread::sleep(Duration::from_micros(500 + 37 * (round as u64 % 50)));
            if round >= SNAPSHOTS && found[1].2.of("scalar") > 0 {
                break;
            }
        }
        drop(load);
    });
    for (role, pid, found) in &found {
        println!(
            "{role}: {} snapshots, {} MiB read, with a scalar {}, with the PIN {}",
            found.snapshots,
            found.read >> 20,
            found.of("scalar"),
            found.of("PIN")
        );
        assert!(found.snapshots >= SNAPSHOTS);
        assert_eq!(a.pid(role), *pid, "the same process all the time");
        assert_eq!(found.of("PIN"), 0, "{role}: {found:?}");
        if *role != "keeper" {
            assert_eq!(found.of("scalar"), 0, "{role}: {found:?}");
        }
    }
    println!("{} handshakes meanwhile", shaken.load(Ordering::Relaxed));
    assert!(shaken.load(Ordering::Relaxed) > SNAPSHOTS / 10);
    // The positive control: a software token has the scalar while it signs.
    assert!(
        found[1].2.of("scalar") > 0,
        "the search finds what is there"
    );
    nowhere_else(&mesh, &secrets, a, &pids);
}

/// Not in command lines, environments, answers to the administrator, the log, or anything that a killed role
/// leaves behind.
fn nowhere_else(mesh: &Mesh, secrets: &Secrets, mut a: Node, pids: &[(&str, u32)]) {
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
    };
    // Where the kernel would write a core file, by default.
    let cores = |folder: &Path| -> Vec<PathBuf> {
        let mut found = files(folder);
        found.retain(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"core"))
        });
        found
    };
    let process = |pid: u32, file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
    let folder = fs::read_link(process(a.pid("keeper"), "cwd")).expect("it runs");
    let before = cores(&folder);
    for (role, pid) in pids {
        let of = |file| fs::read(process(*pid, file)).expect("it runs");
        assert!(!of("cmdline").is_empty(), "{role}");
        assert!(
            !secrets.are_in(&of("cmdline")),
            "command line of the {role}"
        );
        assert!(!secrets.are_in(&of("environ")), "environment of the {role}");
    }
    let nothing_in = |asked: &str, answer: Output| {
        assert!(answer.status.success(), "{asked}: {}", said(&answer));
        assert!(!secrets.are_in(&answer.stdout), "{asked}");
    };
    for format in ["human", "json"] {
        for asked in ["status", "peers", "metrics"] {
            nothing_in(asked, a.admin(&[asked, "--format", format]));
        }
        let mut show = Command::new(FASTNESS);
        show.args(["sandbox", "show", "--format", format, "--config"]);
        let shown = show.arg(mesh.path("a/node.toml")).output();
        nothing_in("sandbox show", shown.expect("the binary runs"));
    }
    let keeper = a.pid("keeper");
    signal(keeper, Signal::ABORT);
    a.wait_replaced("keeper", keeper);
    let log = a.log();
    signal(a.supervisor(), Signal::ABORT);
    assert!(!a.wait_exit().core_dumped(), "the supervisor left a core");
    assert_eq!(cores(&folder), before, "no core file");
    assert!(!secrets.are_in(log.as_bytes()), "{log}");
    for path in files(&mesh.path("a")).iter().filter(|path| path.is_file()) {
        assert!(
            !secrets.are_in(&fs::read(path).expect("a file")),
            "{}",
            path.display()
        );
    }
    // The positive control: it is found where it is.
    assert!(secrets.are_in(&fs::read(mesh.path("a/token/pin")).expect("the PIN's file")));
}

/// A process that is killed with the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_has_the_pin_is_found_out() {
    as_root(WHY);
    let mesh = Mesh::new();
    let secrets = Secrets::of(&mesh);
    let mut command = Command::new("sleep");
    let held = Held(
        command
            .arg("600")
            .env("KEPT", &secrets.pin)
            .spawn()
            .expect("sleep"),
    );
    let found = eventually("it runs", || {
        let found = look(held.0.id(), &secrets.needles(), Part::Written);
        (!found.hits.is_empty()).then_some(found)
    });
    assert_eq!(found.hits[0].secret, "PIN");
    assert_eq!(found.hits[0].windows, secrets.pin.len() - 7, "all of it");
}

/// `fastness token list`, caught while the module hangs in C_Login with the PIN.
fn caught_in_login(mesh: &Mesh, start: impl FnOnce(&mut Command) -> Child) -> (Held, FaultModule) {
    let tokens = mesh.tokens("a");
    let fault = FaultModule::new(&mesh.path("a"), &tokens.module);
    fault.order("hang C_Login");
    let mut command = tokens.command(FASTNESS);
    command.args(["token", "list", "--token", "pkcs11:token=a", "--module"]);
    command
        .arg(fault.module())
        .args(["--pin", &tokens.pin_source()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let held = Held(start(&mut command));
    fault.await_count("C_Login", "hung", 1);
    (held, fault)
}

#[test]
fn while_c_login_has_the_pin_it_is_only_in_a_page_that_root_cannot_read() {
    as_root(WHY);
    let mesh = Mesh::new();
    let needles = Secrets::of(&mesh).needles();
    let (held, _fault) = caught_in_login(&mesh, |command| command.spawn().expect("it starts"));
    let found = look(held.0.id(), &needles, Part::All);
    assert_eq!(found.hits, []);
    let page = ("/secretmem".to_owned(), 4096);
    assert!(found.unreadable.contains(&page), "{:?}", found.unreadable);
    // And nobody but root gets a core file of this command, or looks into it.
    let process = format!("/proc/{}", held.0.id());
    let limits = fs::read_to_string(format!("{process}/limits")).expect("it runs");
    let core = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .expect("a limit");
    let both: Vec<_> = core.split_whitespace().take(2).collect();
    assert_eq!(both, ["0", "0"]);
    let look = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .args(["--", "cat", &format!("{process}/environ")])
        .output()
        .expect("setpriv is part of util-linux");
    assert!(!look.status.success() && look.stdout.is_empty());
}

fn without_memfd_secret<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const ENOSYS: i32 = 38;
    without(r#"{"syscall": "memfd_secret"}"#, ENOSYS, work)
}

#[test]
fn without_memfd_secret_the_pin_is_in_one_locked_place_until_the_login_and_the_log_says_so() {
    as_root(WHY);
    let mesh = Mesh::new();
    let needles = Secrets::of(&mesh).needles();
    let (held, fault) = caught_in_login(&mesh, |command| {
        without_memfd_secret(|| command.spawn().expect("it starts"))
    });
    let found = look(held.0.id(), &needles, Part::All);
    assert_eq!(
        found.hits.len(),
        1,
        "this search would see it: {:?}",
        found.hits
    );
    let status = fs::read_to_string(format!("/proc/{}/status", held.0.id())).expect("it runs");
    let locked = status
        .lines()
        .find(|line| line.starts_with("VmLck"))
        .expect("a line");
    assert!(locked.contains(" 4 kB"), "{locked}");
    drop((held, fault));
    // The keeper wipes it after the login.
    let (a, keeper) = without_memfd_secret(|| {
        let a = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
        a.wait_ready();
        let keeper = a.pid("keeper");
        // The node ends with this thread: it is looked at here.
        assert_eq!(look(keeper, &needles, Part::All).hits, []);
        (a.log(), keeper)
    });
    assert!(a.contains("no memfd_secret(2) here"), "{a}");
    assert!(keeper > 0);
}
