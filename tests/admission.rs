//! Strangers by the hundred, and peers among them; what is counted of it, and how it is read.
//!
//! A listed peer dials from 127.0.0.1, strangers from the rest of 127.0.0.0/8.

mod crowds;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::fault::FaultModule;
use crate::support::files::{FileIdentity, write_private};
use crate::support::{
    FASTNESS, FileCa, Mesh, Node, Options, eventually, free_port, id_of, peer, said,
};

const PEER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A mesh whose node `a` lists the peer `c`, at 127.0.0.1, with a key in a file.
fn stage(limits: &str) -> (Mesh, FileIdentity) {
    let mut mesh = Mesh::new();
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    let listed = ca.identity(
        &mesh.path(""),
        "listed",
        &FileCa::leaf(&id_of("c"), "client"),
    );
    let client = [listed.pin.clone(), mesh.pins["b/client-backup"].clone()];
    let server = [
        mesh.pins["b/server"].clone(),
        mesh.pins["b/server-backup"].clone(),
    ];
    let pin = |key: &str| {
        let kind = if key.starts_with("server") {
            &server
        } else {
            &client
        };
        kind[usize::from(key.ends_with("backup"))].clone()
    };
    let address = format!("{PEER}:{}", mesh.ports["b"]);
    mesh.others = vec![peer("c", Some(&address), pin)];
    mesh.write("a/peers.toml", &mesh.others.concat());
    mesh.edit(
        "a/node.toml",
        "drain_ms = 60000",
        &format!("drain_ms = 60000\n{limits}"),
    );
    (mesh, listed)
}

/// A stranger's address, another for each number.
fn stranger(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 9, high, low)
}

async fn tcp(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// A TLS client that believes every server.
fn client(identity: Option<&FileIdentity>) -> TlsConnector {
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAll));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_file_iter(&identity.certificate).expect("a file");
            let chain = chain.collect::<Result<_, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
            builder
                .with_client_auth_cert(chain, key)
                .expect("they match")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

async fn connect(
    client: &TlsConnector,
    from: Ipv4Addr,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = tcp(from, to).await?;
    client
        .connect(ServerName::IpAddress(to.ip().into()), tcp)
        .await
}

/// Connects and waits for the node's first frame: only then has it judged us.
async fn is_let_in(client: &TlsConnector, from: Ipv4Addr, to: SocketAddr) -> bool {
    match connect(client, from, to).await {
        Ok(mut stream) => matches!(stream.read(&mut [0; 9]).await, Ok(1..)),
        Err(_) => false,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// As many open files as the system allows, here and in the nodes that are started from now on.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit it may be raised");
}

/// Samples by name and labels. Every line is one that Prometheus reads.
#[track_caller]
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (
                words.next(),
                words.next().expect("a name"),
                words.next().expect("a text"),
            );
            match kind {
                Some("HELP") => assert!(
                    families.insert(name.to_owned(), None).is_none(),
                    "{name} comes twice"
                ),
                Some("TYPE") => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    families.insert(name.to_owned(), Some(rest.to_owned()));
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = series.split('{').next().unwrap_or_default();
        let legal = |character: char| character.is_ascii_lowercase() || character == '_';
        assert!(
            name.starts_with("fastness_") && name.chars().all(legal),
            "{line}"
        );
        let family = ["", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| families.get(name.strip_suffix(suffix)?));
        assert!(matches!(family, Some(Some(_))), "no family of {line}");
        if let Some(labels) = series
            .strip_prefix(name)
            .filter(|labels| !labels.is_empty())
        {
            assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        }
        let value = value
            .parse()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(
            samples.insert(series.to_owned(), value).is_none(),
            "{series} comes twice"
        );
    }
    samples
}

#[track_caller]
fn metrics(node: &Node) -> BTreeMap<String, f64> {
    let output = node.admin(&["metrics"]);
    assert!(output.status.success(), "{}", said(&output));
    parse(&String::from_utf8(output.stdout).expect("text"))
}

fn of(samples: &BTreeMap<String, f64>, series: &str) -> f64 {
    samples.get(series).copied().unwrap_or_default()
}

const ESTABLISHED: &str = "fastness_handshakes_total{role=\"server\",outcome=\"established\"}";

#[test]
fn half_open_strangers_do_not_keep_a_peer_out_and_cost_no_signature() {
    let (mesh, listed) = stage("pending_handshakes = 64");
    raise_open_files();
    let a = mesh.start("a");
    let peer = client(Some(&listed));
    runtime().block_on(async {
        let mut silent = Vec::new();
        for number in 0..2000 {
            silent.push(
                tcp(stranger(number % 100), a.address())
                    .await
                    .expect("it listens"),
            );
            if number % 20 == 0 {
                assert!(
                    is_let_in(&peer, PEER, a.address()).await,
                    "after {number} strangers"
                );
            }
        }
        let samples = metrics(&a);
        assert_eq!(of(&samples, ESTABLISHED), 100.0);
        let open = of(
            &samples,
            "fastness_half_open_connections{class=\"stranger\"}",
        );
        assert!((1.0..=48.0).contains(&open), "{open}");
        let refused: f64 = ["displaced", "source-busy"]
            .iter()
            .map(|reason| {
                of(
                    &samples,
                    &format!("fastness_refused_total{{class=\"stranger\",reason=\"{reason}\"}}"),
                )
            })
            .sum();
        assert_eq!(refused + open, 2000.0, "each is counted once");
        assert_eq!(
            of(&samples, "fastness_signatures_total{class=\"listed\"}"),
            100.0
        );
        assert_eq!(
            of(&samples, "fastness_signatures_total{class=\"stranger\"}"),
            0.0
        );
    });
}

#[test]
fn strangers_get_no_more_signatures_of_the_token_than_configured() {
    let (mesh, listed) =
        stage("stranger_signatures_per_second = 10\nsource_signatures_per_second = 4");
    let fault = FaultModule::before(&mesh);
    let a = mesh.start("a");
    let (nobody, peer) = (client(None), client(Some(&listed)));
    let (before, began) = (fault.counts().signatures(), Instant::now());
    let dialled = runtime().block_on(async {
        let mut dialled = 0.0;
        for number in 0..150 {
            // The client believes that it is connected before the server has seen its certificate.
            dialled += f64::from(u8::from(
                connect(&nobody, stranger(number % 30), a.address())
                    .await
                    .is_ok(),
            ));
        }
        for _ in 0..20 {
            assert!(is_let_in(&peer, PEER, a.address()).await);
        }
        dialled
    });
    let (spent, seconds) = (
        fault.counts().signatures() - before,
        began.elapsed().as_secs_f64(),
    );
    let samples = metrics(&a);
    let strangers = of(&samples, "fastness_signatures_total{class=\"stranger\"}");
    assert!(
        strangers >= 10.0 && strangers <= 11.0 + 10.0 * seconds,
        "{strangers} in {seconds} s"
    );
    assert_eq!(strangers, dialled);
    let peers = of(&samples, "fastness_signatures_total{class=\"listed\"}");
    assert_eq!(peers, 20.0);
    // The module's own count: those, and the health probe's two each five seconds at most.
    let probes = spent as f64 - strangers - peers;
    assert!(
        (0.0..=4.0 + 2.0 * seconds / 5.0).contains(&probes),
        "{spent} signatures"
    );
    let rated = of(
        &samples,
        "fastness_refused_total{class=\"stranger\",reason=\"stranger-rate\"}",
    ) + of(
        &samples,
        "fastness_refused_total{class=\"stranger\",reason=\"source-rate\"}",
    );
    assert_eq!(rated + strangers, 150.0);
}

/// What the metrics port answers to a request.
fn http(port: u16, request: &str) -> String {
    let mut tcp = StdTcpStream::connect((PEER, port)).expect("it listens");
    tcp.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn metrics_are_exact_on_the_admin_socket_and_on_the_port() {
    let (mesh, listed) = stage("");
    let port = free_port();
    let toml = mesh.read("a/node.toml");
    mesh.write(
        "a/node.toml",
        &format!("metrics = \"127.0.0.1:{port}\"\n{toml}"),
    );
    let a = mesh.start("a");
    let (nobody, peer) = (client(None), client(Some(&listed)));
    let held = runtime();
    let streams = held.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..7 {
            streams.push(
                connect(&peer, PEER, a.address())
                    .await
                    .expect("it is listed"),
            );
        }
        for _ in 0..3 {
            assert!(!is_let_in(&nobody, PEER, a.address()).await);
        }
        for _ in 0..2 {
            assert!(!is_let_in(&nobody, stranger(1), a.address()).await);
        }
        streams
    });
    let samples = eventually("all is counted", || {
        let samples = metrics(&a);
        (of(&samples, ESTABLISHED) == 7.0).then_some(samples)
    });
    let expected = [
        (
            "fastness_handshakes_total{role=\"server\",outcome=\"no-certificate\"}",
            5.0,
        ),
        (
            "fastness_refused_total{class=\"listed\",reason=\"no-certificate\"}",
            3.0,
        ),
        (
            "fastness_refused_total{class=\"stranger\",reason=\"no-certificate\"}",
            2.0,
        ),
        ("fastness_signatures_total{class=\"listed\"}", 10.0),
        ("fastness_signatures_total{class=\"stranger\"}", 2.0),
        ("fastness_signatures_total{class=\"own\"}", 0.0),
        ("fastness_connections{role=\"server\"}", 7.0),
        ("fastness_half_open_connections{class=\"listed\"}", 0.0),
        ("fastness_lane_wait_seconds_count{class=\"stranger\"}", 4.0),
        ("fastness_sign_seconds_count{token=\"0\",label=\"a\"}", 12.0),
        ("fastness_breaker_open{token=\"0\",label=\"a\"}", 0.0),
        ("fastness_keeper_signs{token=\"0\",label=\"a\"}", 1.0),
        (
            "fastness_keeper_restarts_total{token=\"0\",label=\"a\"}",
            0.0,
        ),
        (
            "fastness_keeper_latches_total{token=\"0\",label=\"a\"}",
            0.0,
        ),
        ("fastness_node_restarts_total", 0.0),
    ];
    // One turn for the signature; one more for what is left when somebody else waits for the lane.
    let turns = of(
        &samples,
        "fastness_lane_wait_seconds_count{class=\"listed\"}",
    );
    assert!(
        (10.0..=20.0).contains(&turns),
        "{turns} turns of ten handshakes"
    );
    for (series, value) in expected {
        assert_eq!(
            samples.get(series),
            Some(&value),
            "{series} in {samples:#?}"
        );
    }
    assert_eq!(a.status()["counters"]["refused_no_certificate"], 5);

    let scraped = eventually("the supervisor's counts reach the port", || {
        let answer = http(
            port,
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        let samples = parse(body);
        let signatures = samples.get("fastness_keeper_signatures_total{token=\"0\",label=\"a\"}");
        signatures
            .is_some_and(|count| *count >= 12.0)
            .then_some(samples)
    });
    assert_eq!(
        scraped.keys().collect::<Vec<_>>(),
        metrics(&a).keys().collect::<Vec<_>>()
    );
    for (series, value) in expected {
        assert_eq!(scraped.get(series), Some(&value), "{series}");
    }
    assert!(http(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(http(port, "DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    drop(streams);
}

#[test]
fn a_metrics_port_that_others_can_reach_is_refused() {
    let mesh = Mesh::new();
    let toml = mesh.read("a/node.toml");
    mesh.write(
        "a/node.toml",
        &format!("metrics = \"0.0.0.0:{}\"\n{toml}", free_port()),
    );
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        said(&output).contains("metrics: is not a loopback address"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_low_limit_of_open_files_makes_room_for_fewer_connections() {
    let (mesh, listed) = stage("pending_handshakes = 32");
    let script = mesh.path("few-files");
    write_private(
        &script,
        &format!("#!/bin/sh\nulimit -n 300\nexec {FASTNESS} \"$@\"\n"),
    );
    crate::support::files::only_ours(&script, 0o700);
    let a = mesh.start_with(
        "a",
        Options {
            binary: Some(script),
            ..Options::default()
        },
    );
    a.wait_log("fewer connections than configured");
    let (peer, held) = (client(Some(&listed)), runtime());
    held.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.extend(connect(&peer, PEER, a.address()).await);
        }
        let samples = metrics(&a);
        let (open, refused) = (
            of(&samples, "fastness_connections{role=\"server\"}"),
            of(
                &samples,
                "fastness_refused_total{class=\"listed\",reason=\"connections-full\"}",
            ),
        );
        assert!(
            open >= 60.0 && refused >= 1.0 && open + refused == 200.0,
            "{open} open, {refused} refused"
        );
    });
    assert!(
        !a.log().contains("cannot accept"),
        "a descriptor was missing"
    );
}

/// Believes every server: who the node is stands in other tests.
#[derive(Debug)]
struct BelievesAll;

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
