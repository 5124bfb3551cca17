//! Judges that no one here wrote: grpcio as client and server, openssl on certificates, requests and
//! lists, python-pkcs11 on the keys.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::files::write_private;
use crate::support::http2;
use crate::support::{Judge, Mesh, Node, free_port, id_of, json, peer, python, run, said};

/// A peer whose keys are in files, certified by the mesh's own authority.
pub struct PythonPeer {
    pub id: String,
    pub client_pin: String,
    pub folder: std::path::PathBuf,
    port: Option<u16>,
}

/// Makes a peer `name` and lists it in both policies; with a port it is also dialled there.
pub fn python_peer(mesh: &mut Mesh, name: &str, port: Option<u16>) -> PythonPeer {
    let folder = mesh.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let pin = |role: &str| {
        let (key, csr) = (
            folder.join(format!("{role}.key")),
            folder.join(format!("{role}.csr")),
        );
        run(Command::new("openssl")
            .args([
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-subj", "/CN=python", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&csr)
            .stderr(Stdio::null()));
        mesh.issue_from(
            &csr,
            role,
            &id_of(name),
            &folder.join(format!("{role}.pem")),
        );
        run(mesh.tokens("ca").fastness().arg("spki-pin").arg(csr))
            .trim()
            .to_owned()
    };
    let pins = [("client", pin("client")), ("server", pin("server"))];
    let backup = |role: &str| {
        fastness::policy::SpkiPin::of_spki(format!("{name} {role}").as_bytes()).to_string()
    };
    let of = |key: &str| match key.strip_suffix("-backup") {
        Some(role) => backup(role),
        None => pins
            .iter()
            .find(|(role, _)| *role == key)
            .expect("two roles")
            .1
            .clone(),
    };
    let address = port.map(|port| format!("127.0.0.1:{port}"));
    mesh.others.push(peer(name, address.as_deref(), of));
    mesh.write_peers("a");
    mesh.write_peers("b");
    PythonPeer {
        id: id_of(name),
        client_pin: pins[0].1.clone(),
        folder,
        port,
    }
}

/// The grpcio client, dialling `node` as `peer`.
pub fn client(mesh: &Mesh, node: &Node, peer: &PythonPeer, action: &str) -> Command {
    let mut command = python("peer_client.py");
    command
        .args([
            "--address",
            &node.address().to_string(),
            "--id",
            &peer.id,
            "--pin",
            &peer.client_pin,
        ])
        .args([
            "--node-id",
            node.status()["node_id"].as_str().expect("text"),
            "--ca",
        ])
        .arg(mesh.path("ca/authority/ca.pem"))
        .arg("--certificate")
        .arg(peer.folder.join("client.pem"))
        .arg("--key")
        .arg(peer.folder.join("client.key"))
        .arg(action);
    command
}

#[test]
fn grpcio_as_client_reads_health_hello_and_bulk() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let a = mesh.start("a");
    assert_eq!(
        run(&mut client(&mesh, &a, &peer, "everything")),
        "all is well\n"
    );
}

#[test]
fn grpcio_gets_errors_for_blocks_and_methods_that_are_not_allowed() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let a = mesh.start("a");
    let said = run(&mut client(&mesh, &a, &peer, "too-long"));
    let codes: Vec<_> = said.lines().collect();
    assert_eq!(
        codes[..2],
        ["INVALID_ARGUMENT", "INVALID_ARGUMENT"],
        "{said}"
    );
    assert!(
        matches!(codes[2], "OUT_OF_RANGE" | "RESOURCE_EXHAUSTED"),
        "{said}"
    );
    assert_eq!(
        run(&mut client(&mesh, &a, &peer, "unknown-method")),
        "UNIMPLEMENTED\n"
    );
}

#[test]
fn grpcio_that_is_not_listed_is_refused() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    mesh.others.clear();
    mesh.write_peers("a");
    let a = mesh.start("a");
    assert_eq!(
        run(&mut client(&mesh, &a, &peer, "refused")),
        "UNAVAILABLE\n"
    );
    a.wait_log("code=\"unlisted\"");
}

#[test]
fn grpcio_as_server_is_dialled_and_sees_our_identity() {
    let mut mesh = Mesh::new();
    let port = free_port();
    let peer = python_peer(&mut mesh, "python", Some(port));
    let mut server = python("peer_server.py");
    server
        .args([
            "--address",
            &format!("127.0.0.1:{}", peer.port.expect("given")),
            "--id",
            &peer.id,
            "--ca",
        ])
        .arg(mesh.path("ca/authority/ca.pem"))
        .arg("--certificate")
        .arg(peer.folder.join("server.pem"))
        .arg("--key")
        .arg(peer.folder.join("server.key"));
    let mut server = Judge::start(&mut server);
    assert_eq!(server.hear(), "listening");
    let a = mesh.start("a");
    let pong = a
        .ask(&["ping", "python", "--transfer", "2MiB"])
        .unwrap_or_else(|output| panic!("{}", said(&output)));
    assert_eq!(
        pong["seen_as"]["peer_id"],
        id_of("a"),
        "grpcio read our SPIFFE ID: {pong}"
    );
    assert_eq!(pong["peer_node_id"], peer.id);
    assert_eq!(pong["connection"]["peer_id"], peer.id);
    assert_eq!(pong["bytes_received"], 2 << 20);
}

fn openssl(arguments: &[&str], files: &[&Path]) -> String {
    run(Command::new("openssl")
        .args(arguments)
        .args(files)
        .stderr(Stdio::null()))
}

#[test]
fn openssl_verifies_our_certificates_strictly_and_for_one_role_only() {
    let mesh = Mesh::new();
    let ca = mesh.path("ca/authority/ca.pem");
    let verify = |role: &str, purpose: &str| {
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .arg(&ca)
            .arg(mesh.path(&format!("a/{role}.pem")))
            .output()
            .expect("openssl")
    };
    for (role, own, other) in [
        ("server", "sslserver", "sslclient"),
        ("client", "sslclient", "sslserver"),
    ] {
        let output = verify(role, own);
        assert!(output.status.success(), "{}", said(&output));
        assert!(
            !verify(role, other).status.success(),
            "a {role} certificate serves as {other}"
        );
    }
    let text = openssl(
        &["x509", "-noout", "-text", "-in"],
        &[&mesh.path("a/server.pem")],
    );
    assert!(text.contains(&format!("URI:{}", id_of("a"))), "{text}");
    assert!(text.contains("TLS Web Server Authentication\n"), "{text}");
    assert!(!text.contains("TLS Web Client Authentication"), "{text}");
    assert!(text.contains("X509v3 Subject Key Identifier"), "{text}");
    assert!(text.contains("X509v3 Authority Key Identifier"), "{text}");
    let root = openssl(
        &["verify", "-x509_strict", "-check_ss_sig", "-CAfile"],
        &[&ca, &ca],
    );
    assert!(root.contains("OK"), "{root}");
}

#[test]
fn openssl_verifies_our_requests() {
    let mesh = Mesh::new();
    for role in ["server", "client"] {
        let csr = mesh.path(&format!("a/{role}.csr"));
        let output = Command::new("openssl")
            .args(["req", "-noout", "-verify", "-in"])
            .arg(csr)
            .output()
            .expect("openssl");
        assert!(said(&output).contains("verify OK"), "{}", said(&output));
    }
}

#[test]
fn openssl_reads_a_revocation_list_and_finds_the_certificate_in_it() {
    let mesh = Mesh::new();
    let ca = mesh.tokens("ca");
    let authority = mesh.path("ca/authority");
    let (certificate, list) = (mesh.path("b/client.pem"), mesh.path("list.pem"));
    run(ca
        .fastness()
        .args(["ca", "revoke", "--reason", "key-compromise", "--dir"])
        .arg(&authority)
        .arg("--certificate")
        .arg(&certificate));
    run(ca
        .fastness()
        .args(["ca", "crl", "--pin", &ca.pin_source(), "--dir"])
        .arg(&authority)
        .arg("--out")
        .arg(&list));
    let both = mesh.write(
        "ca-and-list.pem",
        &(mesh.read("ca/authority/ca.pem") + &mesh.read("list.pem")),
    );
    let verify = |file: &str| {
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-crl_check", "-CAfile"])
            .arg(&both)
            .arg(mesh.path(file))
            .output()
            .expect("openssl")
    };
    let revoked = verify("b/client.pem");
    assert!(
        said(&revoked).contains("certificate revoked"),
        "{}",
        said(&revoked)
    );
    let good = verify("a/client.pem");
    assert!(good.status.success(), "{}", said(&good));
}

#[test]
fn openssl_computes_the_same_spki_pin() {
    let mesh = Mesh::new();
    let certificate = mesh.path("a/server.pem");
    let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let theirs = run(Command::new("sh").args(["-c", script]).arg(&certificate));
    let token = mesh.tokens("a");
    let ours = run(token.fastness().arg("spki-pin").arg(&certificate));
    assert_eq!(ours.trim(), format!("sha256/{}", theirs.trim()));
    let of_key = run(token
        .fastness()
        .args([
            "spki-pin",
            &token.uri("server"),
            "--pin",
            &token.pin_source(),
            "--module",
        ])
        .arg(&token.module));
    assert_eq!(of_key, ours);
}

/// python-pkcs11 on the token of a node.
pub fn pkcs11(mesh: &Mesh, name: &str, arguments: &[&str]) -> Command {
    let token = mesh.tokens(name);
    let mut command = python("key_judge.py");
    command
        .envs(&token.environment)
        .arg("--module")
        .arg(&token.module)
        .args(["--token", name, "--pin-file"])
        .arg(token.folder.join("pin"))
        .args(arguments);
    command
}

#[test]
fn python_pkcs11_finds_every_protection_and_gets_no_key_out() {
    let mesh = Mesh::new();
    for key in ["server", "client", "server-backup", "client-backup"] {
        let found: Value = json(&run(&mut pkcs11(&mesh, "a", &["show", key])));
        for name in [
            "SENSITIVE",
            "ALWAYS_SENSITIVE",
            "NEVER_EXTRACTABLE",
            "LOCAL",
            "PRIVATE",
            "TOKEN",
            "SIGN",
        ] {
            assert_eq!(found["attributes"][name], true, "{name}: {found}");
        }
        for name in ["EXTRACTABLE", "DECRYPT", "UNWRAP", "SIGN_RECOVER", "DERIVE"] {
            assert_ne!(found["attributes"][name], true, "{name}: {found}");
        }
        for what in ["VALUE", "wrap"] {
            assert!(
                found["refused"][what].is_string(),
                "{what} was not refused: {found}"
            );
        }
    }
}

#[test]
fn no_file_of_a_node_but_the_token_holds_anything_private() {
    let mesh = Mesh::new();
    let _a = mesh.start("a");
    let pin = mesh.tokens("a").pin();
    for entry in std::fs::read_dir(mesh.path("a"))
        .expect("a folder")
        .flatten()
    {
        let path = entry.path();
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        assert!(!text.contains("PRIVATE KEY"), "{}", path.display());
        assert!(!text.contains(&pin), "{} holds the PIN", path.display());
    }
    write_private(&mesh.path("done"), "");
}

/// What a node has to tell a peer that it meets, and ends a silent one soon.
const TOLD: &str = "[limits]\nkeepalive_ms = 1000\nstreams = 7\nheader_list_bytes = 5000\n\
                    stream_window_bytes = 70000\nconnection_window_bytes = 1000000";

#[test]
fn a_silent_peer_is_dropped_and_has_been_told_every_limit() {
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    mesh.edit("a/node.toml", "[limits]", TOLD);
    let a = mesh.start("a");
    let said = run(python("settings.py")
        .args([a.address().ip().to_string(), a.address().port().to_string()])
        .arg(peer.folder.join("client.pem"))
        .arg(peer.folder.join("client.key")));
    let said = json(&said);
    for (limit, value) in [
        ("streams", 7),
        ("header_list", 5000),
        ("stream_window", 70_000),
        ("connection_window", 1_000_000),
        // Not in the configuration: the default.
        ("frame", 256 << 10),
        // Closed because a question was not answered, and not for another reason.
        ("pings", 1),
    ] {
        assert_eq!(said[limit], value, "{limit} in {said}");
    }
    assert_eq!(a.status()["connections"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_silent_peer_that_is_dialled_is_dropped_and_has_been_told_every_limit() {
    let mut mesh = Mesh::new();
    let port = free_port();
    let peer = python_peer(&mut mesh, "python", Some(port));
    mesh.edit("a/node.toml", "[limits]", TOLD);
    mesh.section(
        "a",
        "[application]\negress = { python = \"unix:python.sock\" }\n",
    );
    let mut server = Judge::start(
        python("settings.py")
            .args(["127.0.0.1", &port.to_string()])
            .args(["server.pem", "server.key"].map(|file| peer.folder.join(file)))
            .arg(mesh.path("ca/authority/ca.pem")),
    );
    assert_eq!(server.hear(), "listening");
    let a = mesh.start("a");
    // Calls of the node itself, and calls that it passes on.
    let own: &dyn Fn() = &|| {
        let output = a.ask(&["ping", "python"]).expect_err("nobody answers");
        assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    };
    let passed_on: &dyn Fn() = &|| {
        let call = http::Request::post("http://python/greeter.v1.Greeter/Greet")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let call = call
            .body(bytes::Bytes::from_static(&[0; 5]))
            .expect("a call");
        let answer = http2::ask(&mesh.path("a/python.sock"), call);
        assert_eq!(answer.headers()["grpc-status"], "14", "{answer:?}");
    };
    for call in [own, passed_on] {
        call();
        let said = json(&server.hear());
        for (limit, value) in [
            ("push", 0),
            ("header_list", 5000),
            ("stream_window", 70_000),
            ("connection_window", 1_000_000),
            ("frame", 256 << 10),
        ] {
            assert_eq!(said[limit], value, "{limit} in {said}");
        }
    }
}
