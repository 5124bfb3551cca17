//! What of HTTP/1.1 is not as it is in HTTP/2, and who does not read.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use http::{Request, Response, Version};

use super::{counted, curl, joined, web};
use crate::judges::python_peer;
use crate::support::{Mesh, PATIENCE, eventually, free_port, http2, id_of, run, said};

fn at() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// The whole answer to a request as it is written here; the connection ends with it.
fn raw(place: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(place).expect("the door");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.write_all(request.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn an_application_hears_one_host_which_is_that_of_the_target() {
    let mesh = Mesh::new();
    let (upstream, egress) = (at(), at());
    let _application = web(&upstream);
    let (_a, b) = joined(&mesh, "http", &upstream, &egress);
    let ask = |head: &str| raw(&egress, &format!("{head}\r\nConnection: close\r\n\r\n"));
    for (head, heard) in [
        ("GET /host HTTP/1.1\r\nHost: good:1", "good:1"),
        ("GET http://target/host HTTP/1.1\r\nHost: good", "target"),
        ("GET /host HTTP/1.1\r\nHost: a%2Fsocket", "a-2Fsocket"),
        ("GET /host HTTP/1.0", "localhost"),
    ] {
        let answer = ask(head);
        assert!(
            answer.ends_with(&format!("GET /host {heard} ")),
            "{head}: {answer}"
        );
    }
    for head in [
        "GET /host HTTP/1.1",
        "GET /host HTTP/1.1\r\nHost: one\r\nHost: two",
        "GET http://one/host HTTP/1.1\r\nHost: one\r\nHost: one",
    ] {
        let answer = ask(head);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
    }
    counted(&b, "egress", "answered", 4);
    counted(&b, "egress", "refused", 3);
}

#[test]
fn an_application_of_http_2_is_reached_with_http_1_and_http_2() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let application = http2::Application::start(|request| {
        Response::builder()
            .status(201)
            .header("content-type", "text/plain")
            .body(request.body().clone())
            .unwrap()
    });
    let upstream = application.address.to_string();
    let egress = at();
    let mode = |more: &str| format!("[application]\nmode = \"http\"\n{more}\n");
    mesh.section(
        "a",
        &mode(&format!("http2 = true\nupstream = {upstream:?}")),
    );
    mesh.section("b", &mode(&format!("egress = {{ a = {egress:?} }}")));
    let (a, _b) = mesh.start_both();
    let url = format!("http://{egress}/things?x=1");
    let direct = format!("https://{}/things?x=1", a.address());
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let identity = ["-k", "--cert", &certificate, "--key", &key];
    let asks = ["-X", "PUT", "-d", "body", "-H", "x-fastness-peer-id: me"];
    let through = [&asks[..], &[&url]].concat();
    let directly = [&asks[..], &identity, &[&direct]].concat();
    for (who, protocol, version, request) in [
        ("b", "--http1.1", "1.1", &through),
        ("b", "--http2-prior-knowledge", "2", &through),
        ("python", "--http1.1", "1.1", &directly),
        ("python", "--http2", "2", &directly),
    ] {
        let said = curl(&[&[protocol][..], request].concat());
        assert_eq!(said, format!("body 201 HTTP/{version}"));
        let heard = application.hear();
        assert_eq!(
            (heard.method(), heard.version()),
            (&http::Method::PUT, Version::HTTP_2)
        );
        assert_eq!(heard.uri().path_and_query().unwrap(), "/things?x=1");
        assert_eq!(heard.headers()["x-fastness-peer-id"], *id_of(who));
        assert_eq!(heard.body(), &Bytes::from_static(b"body"));
    }
    drop(application);
    let missing = "the application behind this node does not accept connections\n 503 HTTP/1.1";
    eventually("the application is missing", || {
        (curl(&["--http1.1", &url]) == missing).then_some(())
    });

    // With gRPC there is no choice.
    let [http, grpc] = ["http", "grpc"].map(|mode| format!("mode = {mode:?}"));
    mesh.edit("a/node.toml", &http, &grpc);
    let output = mesh.check("a");
    assert!(
        said(&output).contains("application.http2"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_users_headers_are_not_changed() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let (upstream, egress) = (at(), at());
    let _application = web(&upstream);
    let (a, _b) = joined(&mesh, "http", &upstream, &egress);
    let url = format!("http://{egress}/agent");
    let direct = format!("https://{}/agent", a.address());
    let file = |name: &str| peer.folder.join(name).display().to_string();
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let identity = ["-k", "--cert", &certificate, "--key", &key];
    for (places, protocols) in [
        (vec![&*url], ["--http1.1", "--http2-prior-knowledge"]),
        (
            [&identity[..], &[&direct]].concat(),
            ["--http1.1", "--http2"],
        ),
    ] {
        for protocol in protocols {
            for (given, heard) in [("User-Agent: mine/1", "mine/1"), ("User-Agent:", "-")] {
                let said = curl(&[&[protocol, "-H", given][..], &places].concat());
                assert!(
                    said.starts_with(&format!("GET /agent {heard}  200")),
                    "{said}"
                );
            }
        }
    }
    counted(&a, "ingress", "answered", 8);
}

#[test]
fn headers_have_a_bound_and_the_nodes_own_paths_are_for_grpc_alone() {
    let mesh = Mesh::new();
    let (upstream, egress) = (at(), at());
    let _application = web(&upstream);
    let (_a, _b) = joined(&mesh, "http", &upstream, &egress);
    let url = format!("http://{egress}/fastness.v1.X/y");
    let large = format!("http://{egress}/headers");
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let told = "the headers of the answer are too large (limits.header_list_bytes)";
        let said = curl(&[protocol, &large]);
        assert_eq!(said, format!("{told}\n 502 HTTP/{version}"));
        let said = curl(&[protocol, &url]);
        assert_eq!(
            said,
            format!("the node itself speaks gRPC alone\n 404 HTTP/{version}")
        );
    }
}

#[test]
fn an_answer_that_nobody_takes_ends_in_http_2_too() {
    let mesh = Mesh::new();
    let (upstream, egress) = (at(), at());
    let _application = web(&upstream);
    mesh.edit(
        "b/node.toml",
        "drain_ms = 60000",
        "drain_ms = 60000\nstall_ms = 1000",
    );
    let (_a, b) = joined(&mesh, "http", &upstream, &egress);
    let asking = async {
        let stream = tokio::net::TcpStream::connect(&egress)
            .await
            .expect("the door");
        let (send, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let mut send = send.ready().await?;
        let request = Request::get(format!("http://{egress}/much"))
            .body(())
            .expect("a request");
        let (answer, _) = send.send_request(request, true)?;
        let mut body = answer.await?.into_body();
        // Nothing is taken, and the stream comes to its end all the same.
        let mut read = 0;
        while let Some(data) = body.data().await {
            read += data?.len();
        }
        Ok::<_, h2::Error>(read)
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    let error = ended
        .expect("it is ended")
        .expect_err("not the whole answer");
    assert!(error.is_reset(), "{error}");
    counted(&b, "egress", "stalled", 1);
    // The connection between the nodes goes on.
    let url = format!("http://{egress}/host");
    assert!(run(&mut super::curling(&[&url])).contains("200"));
}
