//! The node's life, as one story: hear what to do, take the sockets and channels, build the runtimes
//! and the first generation, serve until told to drain.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::generation::{self, Signer};
use super::peer_service::{MAX_MESSAGE, PeerService};
use super::{
    Node, application, descriptors, listen, metrics_port, orders, prewarmed, proving, serve,
};
use crate::admission::Width;
use crate::config::{Application, Limits};
use crate::control::{FromNode, NodeSetup, ToNode, frame};
use crate::fault::Fault;
use crate::keeper::ask::Asker;
use crate::rpc::peer::peer_server::PeerServer;
use crate::tls::Lane;
use crate::{sandbox, telemetry};

/// The longest question about health: the name of a service.
const HEALTH_MESSAGE: usize = 4096;
/// Established connections that wait for the server to take them.
const ACCEPTED: usize = 64;

/// Threads of the lane beside those that wait for a session each: what is signed next is computed while
/// every session signs. Without one, a token of 5 ms waited a tenth of that before each signature.
const AHEAD: usize = 1;

/// Runs this process as the node: standard input is its supervisor, `services` are the
/// application's.
pub(crate) fn main(services: impl FnOnce(&Node) -> Routes) -> ExitCode {
    match run(services) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not have been started yet.
            let line = format!("fastness node {}: {error}\n", std::process::id());
            telemetry::write_or_drop(line.into_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(services: impl FnOnce(&Node) -> Routes) -> io::Result<()> {
    // 1. Rights are given up; then the supervisor's channel, and everything this process will ever be
    //    given.
    let entered = sandbox::enter(sandbox::Role::Node);
    let control = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (message, descriptors) = frame::receive_with_descriptors::<ToNode>(&control)?;
    let ToNode::Setup(mut setup) = message else {
        return Err(io::Error::other("the first order was not the setup"));
    };
    telemetry::start("node", setup.log);
    let refuse = |faults: Vec<Fault>| frame::send(&control, &FromNode::Refused { faults });
    let application_connections = application::descriptors(setup.application.as_ref());
    let each = application::per_connection(setup.application.as_ref());
    descriptors::fit(
        &mut setup.limits,
        descriptors.len() + application_connections,
        each,
    )?;
    let mut descriptors = descriptors.into_iter();
    let listeners: Vec<StdTcpListener> = descriptors
        .by_ref()
        .take(setup.listeners)
        .map(StdTcpListener::from)
        .collect();
    let metrics = descriptors.by_ref().take(usize::from(setup.metrics)).next();
    let places = setup.application.iter().flat_map(Application::listens);
    let doors: Vec<OwnedFd> = descriptors.by_ref().take(places.count()).collect();
    let signers = signers(&setup, &mut descriptors)?;

    // 2. The first generation: certificates, trust anchors and policy, checked whole.
    let first = match generation::build(&setup.generation, &signers) {
        Ok(first) => first,
        Err(faults) => return refuse(faults),
    };
    let id = match setup.id.parse() {
        Ok(id) => id,
        Err(error) => return refuse(vec![Fault::new("id", format!("{error}"), "mend it")]),
    };

    // 3. Landlock, while there is one thread. What the threads below read of the machine is read now.
    let workers = std::thread::available_parallelism()?.get();
    let sessions: usize = setup.tokens.iter().map(|token| token.sessions).sum();
    let channels: usize = setup.tokens.iter().map(|token| token.channels).sum();
    let walled = entered.and_then(|entered| {
        let given = listeners.len() + channels + doors.len() + application_connections;
        entered.limit_descriptors(open_files(&setup.limits, each, given))?;
        entered.wall(&sandbox::Walls::of_node(setup.dials.clone()))
    });
    let walled = match walled {
        Ok(walled) => walled,
        Err(error) => return refuse(vec![error.into()]),
    };

    // 4. The runtimes: one that serves, and the lane, where handshakes and signatures run. Every thread
    //    exists before the seal.
    sandbox::allocator::trim_once()?;
    let runtime = prewarmed::runtime(workers)?;
    let fewest = setup.tokens.iter().map(|token| token.sessions).min();
    let lane = Lane::start(Width {
        threads: sessions + AHEAD,
        sessions: fewest.unwrap_or_default(),
    })?;
    let node = Node::new(
        id,
        setup.limits.clone(),
        lane,
        first,
        signers,
        application::spoken(setup.application.as_ref()),
    )
    .map_err(io::Error::other)?;
    let routes = services(&node);
    control.set_nonblocking(true)?;
    let registered = runtime.enter();
    let orders = UnixStream::from_std(control.try_clone()?)?;
    let listeners = listeners
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<io::Result<_>>()?;
    let metrics = metrics
        .map(|socket| TcpListener::from_std(socket.into()))
        .transpose()?;
    let application = setup
        .application
        .as_ref()
        .map(|settings| application::Application::new(settings, doors, &node))
        .transpose()?
        .unwrap_or_default();
    drop(registered);

    // 5. The seal, and what only a confined process may do.
    let sealed = sandbox::Profile::node(setup.profile.as_ref(), setup.application.is_some())
        .map_err(sandbox::SandboxError::from)
        .and_then(|profile| walled.seal(&profile));
    let (confined, report) = match sealed {
        Ok(sealed) => sealed,
        Err(error) => return refuse(vec![error.into()]),
    };
    // On a worker, where the connections are: this thread would cost each of them two changes of
    // threads.
    let serving = runtime.spawn(serve(
        confined,
        node.clone(),
        routes,
        Sides {
            listeners,
            metrics,
            application,
        },
        Supervisor {
            control: orders,
            report,
            generation: setup.generation.number,
        },
    ));
    let served = runtime.block_on(serving).map_err(io::Error::other);
    // Threads end with the process and not before: signatures under way must not keep a drained node,
    // and the calls that end a thread are not allowed.
    std::mem::forget((runtime, node));
    served?
}

/// How many descriptors a node needs: connections, handshakes, what it was given, and some room.
pub(crate) fn open_files(limits: &Limits, each: u64, given: usize) -> u64 {
    const ROOM: u64 = 256;
    limits.connections * each
        + limits.pending_handshakes
        + ROOM
        + u64::try_from(given).unwrap_or(ROOM)
}

fn signers(
    setup: &NodeSetup,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> io::Result<Vec<Signer>> {
    let mut signers = Vec::new();
    for token in &setup.tokens {
        let channels: Vec<OwnedFd> = descriptors.take(token.channels).collect();
        if channels.len() != token.channels {
            return Err(io::Error::other("fewer channels came than the setup says"));
        }
        signers.push(Signer {
            label: token.label.as_str().into(),
            asker: Arc::new(Asker::new(channels, setup.limits.sign_deadline())?),
        });
    }
    Ok(signers)
}

/// Everybody but the supervisor whom a node has to do with.
struct Sides {
    /// Peers come in here.
    listeners: Vec<TcpListener>,
    /// Scrapers of metrics here.
    metrics: Option<TcpListener>,
    application: application::Application,
}

/// The supervisor, what it is told first, and what it gave with the setup.
struct Supervisor {
    control: UnixStream,
    report: sandbox::Report,
    /// Number of the first generation.
    generation: u64,
}

/// 6. Once the supervisor has attested us: accept, serve and answer it until it says drain or is gone.
async fn serve(
    _: sandbox::Confined,
    node: Node,
    routes: Routes,
    sides: Sides,
    supervisor: Supervisor,
) -> io::Result<()> {
    let Sides {
        listeners,
        metrics,
        mut application,
    } = sides;
    let limits = node.0.limits.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(health, node.0.ready.subscribe()));
    proving::start(&node);
    let peer_service = PeerService {
        node_id: node.id().clone(),
    };
    let message_bytes = node.message_bytes();
    let routes = routes
        .add_service(health_service.max_decoding_message_size(HEALTH_MESSAGE))
        .add_service(
            PeerServer::new(peer_service).max_decoding_message_size(message_bytes.min(MAX_MESSAGE)),
        );

    let (drain, draining) = watch::channel(false);
    let (begin, attested) = watch::channel(false);
    let (accepted, incoming) = mpsc::channel(ACCEPTED);
    for listener in listeners {
        let accepting = listen::accept(node.clone(), listener, accepted.clone(), draining.clone());
        tokio::spawn(once(attested.clone(), accepting));
    }
    drop(accepted);
    if let Some(listener) = metrics {
        let answering = metrics_port::serve(node.clone(), listener, draining.clone());
        tokio::spawn(once(attested.clone(), answering));
    }
    let egress = application.take_doors();
    let egress = egress.map(|door| door.keep(node.clone(), attested.clone(), draining.clone()));
    let egress: JoinSet<()> = egress.collect();
    let orders = orders::Orders {
        node: node.clone(),
        begin,
        drain,
        application: application.health(),
        generation: supervisor.generation,
    };
    let orders = tokio::spawn(orders.follow(supervisor.report, supervisor.control));
    let routes = routes.prepare();
    let serving = async {
        let draining = draining.clone();
        serve::serve(&node, &routes, application.behind(), incoming, draining).await;
        egress.join_all().await;
    };
    let mut draining = draining.clone();
    let patience = async move {
        let _ = draining.wait_for(|draining| *draining).await;
        tokio::time::sleep(Duration::from_millis(limits.drain_ms)).await;
    };
    tokio::select! {
        () = serving => {}
        () = patience => tracing::warn!("calls still running at the end of the drain are cut off"),
    }
    orders.abort();
    Ok(())
}

/// Does `work` once the supervisor has attested us; one that is gone attests nothing.
async fn once(mut attested: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    if attested.wait_for(|attested| *attested).await.is_ok() {
        work.await;
    }
}

/// `grpc.health.v1`: serving as long as the supervisor counts the node as ready.
async fn report_health(health: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in ["", <PeerServer<PeerService> as NamedService>::NAME] {
            health.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}
