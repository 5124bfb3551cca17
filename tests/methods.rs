//! What a peer may call: its list of methods, at every call, under the policy in force; and peers that a
//! reload no longer allows, which are not served a moment longer.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use crate::judges::{PythonPeer, client, python_peer};
use crate::support::{Judge, Mesh, Node, PATIENCE, eventually, free_port, python, run, said};

const DENIED: &str = "PERMISSION_DENIED this peer may not call this method";
const OWN: &str = "/fastness.peer.v1.Peer/";

/// Lets `peer` call `methods` (TOML) of `node` alone.
fn allow(mesh: &Mesh, node: &str, peer: &str, methods: &str) {
    mesh.write_peers(node);
    let name = format!("name = \"{peer}\"\n");
    let file = format!("{node}/peers.toml");
    mesh.edit(&file, &name, &format!("{name}methods = {methods}\n"));
}

/// A grpcio peer of `a` that calls what it is told to, over one connection.
struct Caller(Judge);

impl Caller {
    fn new(mesh: &Mesh, a: &Node, peer: &PythonPeer) -> Self {
        Self(Judge::start(&mut client(mesh, a, peer, "calls")))
    }

    #[track_caller]
    fn calls(&mut self, method: &str) -> String {
        self.0.tell(method);
        self.0.hear()
    }
}

/// The application of `a` in tests/judges.
fn application(mesh: &Mesh) -> Judge {
    let place = format!("unix:{}", mesh.path("a/app.sock").display());
    let mut judge = Judge::start(python("application.py").arg(place));
    assert_eq!(judge.hear(), "serving");
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    judge
}

fn metric(node: &Node, name: &str) -> u64 {
    let metrics = String::from_utf8(node.admin(&["metrics"]).stdout).expect("text");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.trim().parse().expect("a number"))
}

fn refused_calls(node: &Node) -> u64 {
    metric(
        node,
        "fastness_refused_calls_total{reason=\"method-not-allowed\"} ",
    )
}

fn connections(node: &Node) -> usize {
    node.status()["connections"]
        .as_array()
        .expect("a list")
        .len()
}

#[test]
fn a_peer_calls_the_methods_that_it_lists_and_no_others() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    allow(&mesh, "a", "python", &format!("[\"{OWN}Ping\"]"));
    let a = mesh.start("a");
    let mut caller = Caller::new(&mesh, &a, &peer);
    assert_eq!(caller.calls("/fastness.peer.v1.Peer/Ping"), "OK");
    let others = [
        "/fastness.peer.v1.Peer/Hello",
        "/fastness.peer.v1.Peer/Nothing",
        "/grpc.health.v1.Health/Check",
        "/fastness.peer.v1.Peer/ping",
        "/Fastness.peer.v1.Peer/Ping",
        "/fastness.peer.v1.Peer/Ping?x=1",
        "/fastness.peer.v1.Peer/Ping/",
        "//fastness.peer.v1.Peer/Ping",
        "/fastness.peer.v1.Peer//Ping",
        "/fastness.peer.v1.Peer/%50ing",
        "/fastness.peer.v1.Peer%2FPing",
        "/x/../fastness.peer.v1.Peer/Ping",
    ];
    for other in others {
        assert_eq!(caller.calls(other), DENIED, "{other}");
    }
    assert_eq!(caller.calls("/fastness.peer.v1.Peer/Ping"), "OK");
    assert_eq!(connections(&a), 1, "the connection stays");
    assert_eq!(a.log().matches("connected").count(), 1);
    assert_eq!(refused_calls(&a), others.len() as u64);
    let counters = &a.status()["counters"];
    assert_eq!(counters["refused_method_not_allowed"], others.len());
    let line = a.wait_log("a call was refused");
    for word in [
        "peer=\"python\"",
        "code=\"method-not-allowed\"",
        "Peer/Hello",
    ] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn a_star_is_a_whole_service_and_an_empty_list_is_nothing() {
    let mesh = Mesh::new();
    allow(&mesh, "a", "b", &format!("[\"{OWN}*\"]"));
    allow(&mesh, "b", "a", "[]");
    let (a, b) = mesh.start_both();
    b.ask(&["ping", "a", "--transfer", "1MiB"])
        .expect("all of it");
    let output = a.ask(&["ping", "b"]).expect_err("nothing");
    assert!(said(&output).contains("may not call"), "{}", said(&output));
    assert_eq!((refused_calls(&a), refused_calls(&b)), (0, 1));
    let shown = |node: &Node| node.ask(&["peers"]).expect("peers")["peers"][0]["methods"].clone();
    assert_eq!(shown(&a)["allowed"], serde_json::json!([format!("{OWN}*")]));
    assert_eq!(shown(&b)["allowed"], serde_json::json!([]));
    let text = said(&a.admin(&["peers"]));
    assert!(text.contains(&format!("may call only {OWN}*")), "{text}");
    assert!(said(&b.admin(&["peers"])).contains("may call nothing"));
}

#[test]
fn an_application_hears_of_allowed_calls_alone() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let _application = application(&mesh);
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    allow(
        &mesh,
        "a",
        "b",
        "[\"/test.Echo/Unary\", \"/test.Echo/Heard\"]",
    );
    let (a, b) = mesh.start_both();
    let door = format!("unix:{}", mesh.path("b/a.sock").display());
    let call = |action: &str| run(python("caller.py").args([&door, action]));
    assert!(call("unary").starts_with("hello "), "{}", call("unary"));
    for denied in ["fail", "bulk"] {
        assert_eq!(call(denied), format!("{DENIED}\n"));
    }
    // Its node's own services are methods like any other.
    let output = b.ask(&["ping", "a"]).expect_err("not in the list");
    assert!(said(&output).contains("may not call"), "{}", said(&output));
    assert_eq!(call("heard"), "/test.Echo/Unary /test.Echo/Heard\n");
    assert_eq!(refused_calls(&a), 3);

    // Another peer, which has no list.
    let mut caller = Caller::new(&mesh, &a, &peer);
    assert_eq!(caller.calls("/test.Echo/Unary"), "OK");
    assert_eq!(caller.calls("/fastness.peer.v1.Peer/Ping"), "OK");
    assert_eq!(
        caller.calls("/test.Echo/Fail"),
        "FAILED_PRECONDITION as you wish:"
    );
}

#[test]
fn no_spelling_of_a_path_reaches_an_application_past_the_list() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let _application = application(&mesh);
    allow(
        &mesh,
        "a",
        "python",
        "[\"/test.Echo/Heard\", \"/test.Sub/*\"]",
    );
    let a = mesh.start("a");
    let mut caller = Caller::new(&mesh, &a, &peer);
    for path in [
        "/test.Echo/Unary",
        "/test.Echo/heard",
        "/test.Echo/%48eard",
        "/test.Echo/Heard?/test.Echo/Unary",
        "/test.Echo/Heard/",
        "//test.Echo/Heard",
        "/test.Sub/../test.Echo/Unary",
        "/test.Sub//test.Echo/Unary",
        "/test.Sub/%2e%2e/test.Echo/Unary",
        "/test.Sub/M?x",
        "/test.Sub/",
    ] {
        assert_eq!(caller.calls(path), DENIED, "{path}");
    }
    assert_eq!(
        caller.calls("/test.Sub/M"),
        "UNIMPLEMENTED Method not found!"
    );
    // The end is in the first and only header block.
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let url = format!("https://{}/test.Echo/Unary", a.address());
    let answer = run(Command::new("curl")
        .args(["-ksS", "-i", "--http2", "--max-time", "30", "-X", "POST"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .args([
            "--cert",
            &file("client.pem"),
            "--key",
            &file("client.key"),
            &url,
        ]));
    for line in [
        "HTTP/2 200",
        "grpc-status: 7",
        "grpc-message: this peer may not call this method",
    ] {
        assert!(answer.contains(line), "{answer}");
    }
    let door = Caller::new(&mesh, &a, &peer).calls("/test.Echo/Heard");
    assert_eq!(door, "OK");
}

#[test]
fn a_reload_changes_what_a_connected_peer_may_call() {
    let mesh = Mesh::new();
    let _application = application(&mesh);
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let (a, b) = mesh.start_both();
    let door = format!("unix:{}", mesh.path("b/a.sock").display());
    let call = |action: &str| run(python("caller.py").args([&door, action]));
    let mut running = Judge::start(python("caller.py").args([&door, "slow"]));
    assert_eq!(running.hear(), "begun");
    assert!(call("fail").starts_with("FAILED_PRECONDITION"));

    allow(&mesh, "a", "b", "[\"/test.Echo/Unary\"]");
    a.ask(&["reload"]).expect("a good policy");
    assert!(call("unary").starts_with("hello "));
    assert_eq!(call("fail"), format!("{DENIED}\n"));
    running.tell("go on");
    assert_eq!(
        running.hear(),
        "ended well",
        "what was allowed when it began goes on"
    );

    allow(&mesh, "a", "b", "[]");
    a.ask(&["reload"]).expect("a good policy");
    assert_eq!(call("unary"), format!("{DENIED}\n"));
    mesh.write_peers("a");
    a.ask(&["reload"]).expect("a good policy");
    assert!(call("fail").starts_with("FAILED_PRECONDITION"));
    assert_eq!(
        b.log().matches("we dialled").count(),
        1,
        "one connection for all of it"
    );
}

#[test]
fn a_peer_that_a_reload_takes_out_is_cut_off_in_both_directions() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let (a, b) = mesh.start_both();
    a.ping("b");
    b.ping("a");
    let mut running = Judge::start(&mut client(&mesh, &a, &peer, "slow-transfer"));
    assert_eq!(running.hear(), "under way");
    assert_eq!(connections(&a), 3);

    // An unchanged policy closes nothing.
    a.ask(&["reload"]).expect("a good policy");
    assert_eq!(connections(&a), 3);

    // Without b: those with python stay.
    mesh.write("a/peers.toml", &mesh.others.concat());
    a.ask(&["reload"]).expect("a good policy");
    eventually("b is cut off", || (connections(&a) == 1).then_some(()));
    eventually("b has noticed", || (connections(&b) == 0).then_some(()));
    assert_eq!(
        a.log().matches("code=\"unlisted\"").count(),
        2,
        "{}",
        a.log()
    );
    assert!(b.ask(&["ping", "a"]).is_err(), "b is a stranger now");
    running.tell("go on");
    assert_eq!(running.hear(), "ended well");

    // And back again.
    mesh.write_peers("a");
    a.ask(&["reload"]).expect("a good policy");
    b.ping("a");
    a.ping("b");
}

#[test]
fn a_peer_whose_key_a_reload_takes_out_is_cut_off_in_the_middle_of_a_call() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let (a, b) = mesh.start_both();
    b.ping("a");
    let mut command = client(&mesh, &a, &peer, "slow-transfer");
    let mut running = Judge::start(command.stderr(Stdio::null()));
    assert_eq!(running.hear(), "under way");

    // The key in use is the backup pin now: that is a change of names only.
    let [active, backup] = ["b/client", "b/client-backup"].map(|pin| mesh.pins[pin].clone());
    let swap = |from: &str, to: &str| mesh.edit("a/peers.toml", from, to);
    swap(&active, "ACTIVE");
    swap(&backup, &active);
    swap("ACTIVE", &backup);
    a.ask(&["reload"]).expect("a good policy");
    assert_eq!(connections(&a), 2);

    let other = fastness::policy::SpkiPin::of_spki(b"another key").to_string();
    swap(&peer.client_pin, &other);
    a.ask(&["reload"]).expect("a good policy");
    a.wait_log("code=\"key-not-pinned\"");
    eventually("its connection is gone", || {
        (connections(&a) == 1).then_some(())
    });
    running.fail();
    b.ping("a");
}

#[test]
fn a_connection_of_any_bytes_ends_with_its_peer() {
    let mesh = Mesh::new();
    let application = UnixListener::bind(mesh.path("a/app.sock")).expect("a socket");
    let section = |text: &str| format!("[application]\nmode = \"tcp\"\n{text}\n");
    mesh.section("a", &section("upstream = \"unix:app.sock\""));
    mesh.section("b", &section("egress = { a = \"unix:a.sock\" }"));
    let (a, _b) = mesh.start_both();
    let mut door = UnixStream::connect(mesh.path("b/a.sock")).expect("the door");
    door.write_all(b"x").expect("it is taken");
    let (mut heard, _) = application.accept().expect("a connection");
    heard.read_exact(&mut [0]).expect("it arrives");
    mesh.write("a/peers.toml", "");
    a.ask(&["reload"]).expect("a good policy");
    for end in [&mut heard, &mut door] {
        end.set_read_timeout(Some(PATIENCE)).expect("not zero");
        assert!(matches!(end.read(&mut [0]), Ok(0)), "nothing more comes");
    }
}

#[test]
fn an_application_that_speaks_http_is_held_to_paths() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let upstream = format!("127.0.0.1:{}", free_port());
    let mut web = Judge::start(python("web.py").arg(&upstream));
    assert_eq!(web.hear(), "serving");
    let section = format!("[application]\nmode = \"http\"\nupstream = {upstream:?}\n");
    mesh.section("a", &section);
    allow(&mesh, "a", "python", "[\"/api/*\", \"/one/page\"]");
    let a = mesh.start("a");
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let ask = |protocol: &str, path: &str| {
        run(Command::new("curl")
            .args([
                "-ksS",
                "--max-time",
                "30",
                "--path-as-is",
                "-o",
                "/dev/null",
            ])
            .args([
                "-w",
                "%{http_code}",
                protocol,
                "--cert",
                &file("client.pem"),
            ])
            .args(["--key", &file("client.key")])
            .arg(format!("https://{}{path}", a.address())))
    };
    for protocol in ["--http1.1", "--http2"] {
        for path in ["/api", "/api/x", "/api/x/y?z=1", "/one/page?x=%2e"] {
            assert_eq!(ask(protocol, path), "200", "{protocol} {path}");
        }
        for path in [
            "/",
            "/one",
            "/one/pages",
            "/apis",
            "/api/../one",
            "/api/%2e%2e/one",
            "/api//x",
        ] {
            assert_eq!(ask(protocol, path), "403", "{protocol} {path}");
        }
    }
    let mut caller = Caller::new(&mesh, &a, &peer);
    assert_eq!(caller.calls("/fastness.peer.v1.Peer/Ping"), DENIED);
}

#[test]
fn methods_of_peers_of_an_application_that_speaks_bytes_are_a_fault() {
    let mesh = Mesh::new();
    mesh.section(
        "a",
        "[application]\nmode = \"tcp\"\nupstream = \"unix:app.sock\"\n",
    );
    let good = mesh.check("a");
    assert!(good.status.success(), "{}", said(&good));
    allow(&mesh, "a", "b", "[\"/test.Echo/Unary\"]");
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for words in ["peers.toml", "peer[0].methods", "mode = \"tcp\""] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
}
