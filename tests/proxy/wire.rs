//! What is on the wire at either end: it is what the other end wrote.

use std::process::Command;

use bytes::Bytes;
use http::{Request, Response};

use super::{call, door};
use crate::support::{Judge, Mesh, eventually, free_port, http2, id_of, python, run};

/// The parts of a call or an answer that say how its messages are to be read.
fn as_sent(headers: &http::HeaderMap, body: &Bytes) -> (Vec<String>, Bytes) {
    let names = ["content-type", "grpc-encoding", "grpc-accept-encoding"];
    let texts = names.map(|name| format!("{name}: {:?}", headers.get(name)));
    (texts.into(), body.clone())
}

/// One message in gzip (grpc/doc/PROTOCOL-HTTP2.md, Length-Prefixed-Message; RFC 1952 section 2.3.1), and
/// flagged so.
#[track_caller]
fn assert_gzip(headers: &http::HeaderMap, body: &Bytes) {
    assert_eq!(headers["grpc-encoding"], "gzip");
    let length = u32::try_from(body.len() - 5).unwrap().to_be_bytes();
    let expected = [&[1][..], &length, &[0x1f, 0x8b]].concat();
    assert!(body.starts_with(&expected), "{body:02x?}");
}

#[test]
fn a_compressed_message_keeps_its_flag_and_every_byte_both_ways() {
    let mesh = Mesh::new();
    // Raw HTTP/2 at one side, and grpcio at the other.
    let raw = http2::Application::start(|request| {
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-encoding", &request.headers()["grpc-encoding"]);
        answer.body(request.body().clone()).unwrap()
    });
    let direct = raw.address.to_string();
    let at = format!("unix:{}", mesh.path("b/app.sock").display());
    let mut grpcio = Judge::start(python("application.py").arg(at));
    assert_eq!(grpcio.hear(), "serving");
    for (name, upstream, peer) in [("a", &*direct, "b"), ("b", "unix:app.sock", "a")] {
        let egress = format!("egress = {{ {peer} = \"unix:{peer}.sock\" }}\n");
        let section = format!("[application]\nupstream = {upstream:?}\n{egress}");
        mesh.section(name, &section);
    }
    let _nodes = mesh.start_both();

    // grpcio asks; that it understands the answer shows the answer's flag.
    let [asked, passed] = [direct, door(&mesh)].map(|place| {
        let said = run(python("caller.py").args([&place, "gzip"]));
        assert_eq!(said, "gzip and back\n");
        raw.hear()
    });
    assert_gzip(passed.headers(), passed.body());
    let sent = as_sent(asked.headers(), asked.body());
    assert_eq!(as_sent(passed.headers(), passed.body()), sent);

    // grpcio answers; that it echoes the message in the clear shows the question's flag.
    let [answered, passed] = ["b/app.sock", "a/b.sock"].map(|place| {
        let request = Request::post("http://b/test.Echo/Gzip")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", "gzip")
            .header("grpc-accept-encoding", "gzip");
        let request = request.body(asked.body().clone()).unwrap();
        http2::ask(&mesh.path(place), request)
    });
    assert_eq!(passed.headers()["grpc-status"], "0");
    assert_eq!(passed.headers()["length-of-the-message"], "1000000");
    assert_gzip(passed.headers(), passed.body());
    let sent = as_sent(answered.headers(), answered.body());
    assert_eq!(as_sent(passed.headers(), passed.body()), sent);
}

#[test]
fn http_2_that_is_not_grpc_passes_with_the_meaning_of_http() {
    let mesh = Mesh::new();
    let application = http2::Application::start(|request| {
        let answer = Response::builder()
            .status(404)
            .header("content-type", "application/json")
            .header("x-heard", request.body().len());
        answer
            .body(Bytes::from_static(b"{\"found\": false}"))
            .unwrap()
    });
    let upstream = application.address.to_string();
    mesh.section("a", &format!("[application]\nupstream = {upstream:?}\n"));
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let (_a, b) = mesh.start_both();
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "--unix-socket"])
            .arg(mesh.path("b/a.sock"))
            .args(["-w", " %{http_code} HTTP/%{http_version}"]);
        curl.args(arguments).arg("http://a/things?x=1");
        curl.output().expect("curl")
    };
    let asked = ["--http2-prior-knowledge", "-X", "GET", "-d", "{\"a\": 1}"];
    let headers = [
        "-H",
        "content-type: application/json",
        "-H",
        "x-fastness-peer-id: me",
    ];
    let answer = || {
        let output = curl(&[&asked[..], &headers].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(answer(), "{\"found\": false} 404 HTTP/2");
    let heard = application.hear();
    assert_eq!(heard.method(), "GET");
    assert_eq!(heard.uri().path_and_query().unwrap(), "/things?x=1");
    assert_eq!(heard.headers()["content-type"], "application/json");
    assert_eq!(heard.headers()["x-fastness-peer-id"], *id_of("b"));
    assert_eq!(heard.body(), "{\"a\": 1}");

    // A refusal is one in the same words: no status of gRPC with 200.
    drop(application);
    let missing = "the application behind this node does not accept connections\n 503 HTTP/2";
    eventually("the application is missing", || {
        (answer() == missing).then_some(())
    });

    // HTTP/1.1 is not spoken here: nothing is guessed, and the operator is told.
    assert!(!curl(&["--http1.1"]).status.success());
    b.wait_log("the application's connection was closed");
}

#[test]
fn an_application_that_speaks_no_http_2_is_named_to_the_caller_and_in_the_log() {
    let mesh = Mesh::new();
    let at = format!("127.0.0.1:{}", free_port());
    let mut web = Judge::start(python("web.py").arg(&at));
    assert_eq!(web.hear(), "serving");
    mesh.section("a", &format!("[application]\nupstream = {at:?}\n"));
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let (a, _b) = mesh.start_both();
    let said = call(&mesh, "unary");
    let why = "does not speak HTTP/2";
    assert!(
        said.starts_with("UNAVAILABLE") && said.contains(why),
        "{said}"
    );
    a.wait_log(why);
}
