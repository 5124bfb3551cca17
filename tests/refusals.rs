//! Whom a node refuses: each refusal has its reason in the node's log, and the peer learns an alert at
//! most.

use std::io::{Read, Write};
use std::net::TcpStream;

use rcgen::{ExtendedKeyUsagePurpose, SanType};

use crate::support::files::{FileIdentity, only_ours};
use crate::support::{
    FileCa, Intruder, Mesh, Node, free_port, id_of, intruder, peer, s_server, said,
};

/// A mesh whose node `a` also trusts an authority of the test, which issues anything; and lists the
/// peer `c`, who has the pins that `listed` holds.
struct Stage {
    mesh: Mesh,
    ca: FileCa,
    listed: FileIdentity,
    a: Node,
}

impl Stage {
    fn new() -> Self {
        Self::with_limits("")
    }

    fn with_limits(limits: &str) -> Self {
        let mut mesh = Mesh::new();
        let ca = FileCa::new("Second root");
        let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
        mesh.write("ca/authority/ca.pem", &anchors);
        let listed = ca.identity(
            &mesh.path(""),
            "listed",
            &FileCa::leaf(&id_of("c"), "client"),
        );
        let pins = [listed.pin.clone(), mesh.pins["b/client-backup"].clone()];
        // The backup stands once only in a policy: b is not in it.
        mesh.others = vec![peer("c", None, |key| {
            pins[usize::from(key.ends_with("backup"))].clone()
        })];
        let text = mesh.others.concat();
        mesh.write("a/peers.toml", &text);
        mesh.edit(
            "a/node.toml",
            "drain_ms = 60000",
            &format!("drain_ms = 60000\n{limits}"),
        );
        let a = mesh.start("a");
        Self {
            mesh,
            ca,
            listed,
            a,
        }
    }

    fn identity(&self, name: &str, params: &rcgen::CertificateParams) -> FileIdentity {
        self.ca.identity(&self.mesh.path(""), name, params)
    }

    /// A certificate for c's pinned key, with other contents.
    fn with_the_pinned_key(&self, name: &str, params: &rcgen::CertificateParams) -> FileIdentity {
        let own = std::fs::read_to_string(&self.listed.certificate).expect("it was written");
        let pem = self
            .ca
            .certify(&crate::support::files::spki_of(&own), params);
        FileIdentity {
            certificate: self.mesh.write(&format!("{name}.pem"), &pem),
            key: self.listed.key.clone(),
            pin: self.listed.pin.clone(),
        }
    }

    #[track_caller]
    fn refuses(&self, identity: Option<&FileIdentity>, arguments: &[&str], code: &str) -> Intruder {
        let intruder = Intruder::dials(&self.a, identity, arguments);
        assert_eq!(intruder.logged, code, "{}", intruder.said);
        // What the peer learns is an alert of RFC 8446 §6.2, and nothing of ours.
        assert!(!intruder.said.contains("fastness"), "{}", intruder.said);
        intruder
    }
}

fn leaf() -> rcgen::CertificateParams {
    FileCa::leaf(&id_of("c"), "client")
}

#[test]
fn a_listed_client_with_its_pinned_key_is_let_in() {
    let stage = Stage::new();
    let before = stage.a.log_length();
    let output = std::process::Command::new("openssl")
        .args([
            "s_client",
            "-tls1_3",
            "-alpn",
            "h2",
            "-verify_return_error",
            "-CAfile",
        ])
        .arg(stage.mesh.path("ca/authority/ca.pem"))
        .args(["-connect", &stage.a.address().to_string(), "-cert"])
        .arg(&stage.listed.certificate)
        .arg("-key")
        .arg(&stage.listed.key)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl");
    assert!(
        said(&output).contains("Verify return code: 0 (ok)"),
        "{}",
        said(&output)
    );
    let line = stage.a.wait_log_after(before, "connected");
    assert!(line.contains(&id_of("c")), "{line}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let stage = Stage::new();
    let seen = stage.refuses(None, &["-tls1_3"], "no-certificate");
    assert_eq!(seen.alert.as_deref(), Some("certificate required"));
}

#[test]
fn a_client_of_another_authority_is_refused() {
    let stage = Stage::new();
    let other = FileCa::new("Third root").identity(&stage.mesh.path(""), "other", &leaf());
    let seen = stage.refuses(Some(&other), &["-tls1_3"], "not-trusted");
    assert_eq!(seen.alert.as_deref(), Some("unknown ca"));
}

#[test]
fn a_listed_client_with_another_key_is_refused() {
    let stage = Stage::new();
    let other = stage.identity("other", &leaf());
    stage.refuses(Some(&other), &["-tls1_3"], "key-not-pinned");
}

#[test]
fn a_certified_client_that_is_not_listed_is_refused() {
    let stage = Stage::new();
    let stranger = stage.with_the_pinned_key("stranger", &FileCa::leaf(&id_of("nobody"), "client"));
    stage.refuses(Some(&stranger), &["-tls1_3"], "unlisted");
}

#[test]
fn a_server_certificate_used_as_client_is_refused() {
    let stage = Stage::new();
    let server = stage.with_the_pinned_key("server", &FileCa::leaf(&id_of("c"), "server"));
    stage.refuses(Some(&server), &["-tls1_3"], "wrong-extended-key-usage");
}

#[test]
fn a_certificate_for_both_roles_is_refused() {
    let stage = Stage::new();
    let mut params = leaf();
    params
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    let both = stage.with_the_pinned_key("both", &params);
    stage.refuses(Some(&both), &["-tls1_3"], "wrong-extended-key-usage");
}

#[test]
fn an_expired_and_a_future_certificate_are_refused() {
    let stage = Stage::new();
    let mut params = leaf();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = stage.with_the_pinned_key("expired", &params);
    let seen = stage.refuses(Some(&expired), &["-tls1_3"], "expired");
    assert_eq!(seen.alert.as_deref(), Some("certificate expired"));
    params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    let future = stage.with_the_pinned_key("future", &params);
    stage.refuses(Some(&future), &["-tls1_3"], "not-yet-valid");
}

#[test]
fn a_certificate_that_names_no_identity_or_two_is_refused() {
    let stage = Stage::new();
    let mut params = leaf();
    params.subject_alt_names.remove(0);
    let nobody = stage.with_the_pinned_key("nobody", &params);
    stage.refuses(Some(&nobody), &["-tls1_3"], "no-identity");
    let mut params = leaf();
    params
        .subject_alt_names
        .push(SanType::URI(id_of("b").as_str().try_into().expect("ASCII")));
    let two = stage.with_the_pinned_key("two", &params);
    stage.refuses(Some(&two), &["-tls1_3"], "several-identities");
}

#[test]
fn tls_1_2_is_not_spoken() {
    let stage = Stage::new();
    let seen = stage.refuses(Some(&stage.listed), &["-tls1_2"], "not-our-tls");
    assert_eq!(seen.alert.as_deref(), Some("protocol version"));
}

#[test]
fn a_client_that_does_not_speak_http_2_is_refused() {
    let stage = Stage::new();
    let seen = stage.refuses(
        Some(&stage.listed),
        &["-tls1_3", "-alpn", "http/1.1"],
        "not-h2",
    );
    assert!(
        seen.said.contains("no application protocol"),
        "{}",
        seen.said
    );
}

/// Sends `bytes` as the first thing on a connection; returns what came back and the reason logged.
fn raw(node: &Node, bytes: &[u8]) -> (Vec<u8>, String) {
    let before = node.log_length();
    let mut tcp = TcpStream::connect(node.address()).expect("it listens");
    // It may stop reading early.
    let _ = tcp.write_all(bytes);
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    (
        answer,
        intruder::code_in(&node.wait_log_after(before, "refused")),
    )
}

/// Nothing, or one plaintext TLS alert record (RFC 8446 §5.1): type 21, two bytes.
#[track_caller]
fn assert_only_an_alert(answer: &[u8]) {
    assert!(
        answer.is_empty() || (answer.len() == 7 && answer[0] == 21 && answer[3..5] == [0, 2]),
        "the peer learned {answer:?}"
    );
}

#[test]
fn garbage_plaintext_and_oversized_records_end_in_an_alert_at_most() {
    let stage = Stage::new();
    let mut oversized = vec![22, 3, 1, 0xff, 0xff];
    oversized.resize(70_000, 0x41);
    // A ClientHello that says it is 16 MiB long.
    let mut endless = vec![22, 3, 1, 0x40, 0x00, 1, 0xff, 0xff, 0xff];
    endless.resize(5 + 0x4000, 0);
    let cases: [(&str, &[u8]); 5] = [
        ("zeros", &[0; 512]),
        ("text", b"hello, is anybody there? ".repeat(20).leak()),
        (
            "plaintext gRPC",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        ("an oversized record", &oversized),
        ("an endless ClientHello", &endless),
    ];
    for (what, bytes) in cases {
        let (answer, code) = raw(&stage.a, bytes);
        assert_only_an_alert(&answer);
        assert!(matches!(&*code, "not-our-tls" | "io"), "{what}: {code}");
    }
    // And it serves as before.
    assert_eq!(stage.a.status()["state"], "ready");
}

#[test]
fn a_connection_that_says_nothing_is_closed_at_the_deadline() {
    let stage = Stage::with_limits("handshake_deadline_ms = 300");
    // Nothing; then half a ClientHello.
    for first in [&[][..], &[22, 3, 1, 2, 0, 1, 0][..]] {
        let (answer, code) = raw(&stage.a, first);
        assert_eq!(code, "deadline");
        assert_only_an_alert(&answer);
    }
}

#[test]
fn strangers_beyond_the_bound_displace_the_oldest_that_says_nothing_and_cost_no_signature() {
    let stage = Stage::with_limits("pending_handshakes = 4\nhandshake_deadline_ms = 60000");
    // One place of the four is kept for listed addresses.
    let mut silent: Vec<_> = (0..5)
        .map(|_| TcpStream::connect(stage.a.address()).expect("it listens"))
        .collect();
    for oldest in &mut silent[..2] {
        let mut answer = Vec::new();
        let closed = oldest.read_to_end(&mut answer);
        assert!(closed.is_err() || answer.is_empty());
    }
    assert_eq!(stage.a.status()["counters"]["refused_displaced"], 2);
    // Whoever says something has a place.
    crate::support::eventually("a stranger gets as far as an alert", || {
        let mut tcp = TcpStream::connect(stage.a.address()).ok()?;
        tcp.write_all(&[0; 512]).ok()?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then_some(())
    });
}

/// Node `a` dials what stands where `b` should be: returns what `ping` says, and the log's reason.
fn dials(spoil: impl FnOnce(&Mesh, &FileCa, u16) -> Option<intruder::Server>) -> String {
    let mut mesh = Mesh::new();
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    mesh.ports.insert("b".into(), free_port());
    mesh.configure();
    let _server = spoil(&mesh, &ca, mesh.ports["b"]);
    let a = mesh.start("a");
    let output = a.ask(&["ping", "b"]).expect_err("it must not work");
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    said(&output) + &a.log()
}

#[test]
fn a_server_whose_key_is_not_pinned_is_refused() {
    let said = dials(|mesh, ca, port| {
        let identity = ca.identity(&mesh.path(""), "fake", &FileCa::leaf(&id_of("b"), "server"));
        Some(s_server(port, &identity, &mesh.path(""), &["-Verify", "1"]))
    });
    assert!(said.contains("the peer's key is not pinned"), "{said}");
}

#[test]
fn another_peer_at_the_dialled_address_is_refused() {
    let said = dials(|mesh, ca, port| {
        let identity = ca.identity(&mesh.path(""), "fake", &FileCa::leaf(&id_of("a"), "server"));
        Some(s_server(port, &identity, &mesh.path(""), &["-Verify", "1"]))
    });
    assert!(said.contains("not the one that was dialled"), "{said}");
}

#[test]
fn a_client_certificate_used_as_server_is_refused() {
    let said = dials(|mesh, ca, port| {
        let identity = ca.identity(&mesh.path(""), "fake", &FileCa::leaf(&id_of("b"), "client"));
        Some(s_server(port, &identity, &mesh.path(""), &["-Verify", "1"]))
    });
    assert!(said.contains("extended key usage"), "{said}");
}

#[test]
fn a_server_of_another_authority_is_refused() {
    let said = dials(|mesh, _, port| {
        let other = FileCa::new("Third root");
        let identity = other.identity(&mesh.path(""), "fake", &FileCa::leaf(&id_of("b"), "server"));
        Some(s_server(port, &identity, &mesh.path(""), &["-Verify", "1"]))
    });
    assert!(said.contains("UnknownIssuer"), "{said}");
}

#[test]
fn a_server_that_asks_for_no_certificate_is_refused_even_with_the_right_key() {
    let said = dials(|mesh, ca, port| {
        let identity = ca.identity(
            &mesh.path(""),
            "right",
            &FileCa::leaf(&id_of("b"), "server"),
        );
        mesh.edit("a/peers.toml", &mesh.pins["b/server"], &identity.pin);
        Some(s_server(port, &identity, &mesh.path(""), &[]))
    });
    assert!(said.contains("takes no client certificate"), "{said}");
}

#[test]
fn a_plaintext_server_is_refused() {
    let said = dials(|_, _, port| {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        std::thread::spawn(move || {
            while let Ok((mut tcp, _)) = listener.accept() {
                let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            }
        });
        None
    });
    assert!(said.contains("does not speak TLS 1.3"), "{said}");
}

#[test]
fn the_administrators_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = Mesh::new();
    let _a = mesh.start("a");
    let mode = std::fs::metadata(mesh.path("a/admin.sock"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    only_ours(&mesh.path("a"), 0o700);
}
