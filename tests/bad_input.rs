//! Bad input gets a clear error: the place, what is wrong, what to do. Nothing is tried twice, nothing
//! starts half, and no secret is repeated.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::judges::pkcs11;
use crate::support::files::{only_ours, spki_of, write_private};
use crate::support::json;
use crate::support::{
    FASTNESS, FaultModule, FileCa, Mesh, Node, Options, Tokens, as_root, eventually, id_of,
    in_softhsm, node, run, said,
};

/// `fastness check` of node `a` fails with `code`, and every one of `words` is in what it prints.
#[track_caller]
fn says(mesh: &Mesh, code: i32, words: &[&str]) -> String {
    let output = mesh.check("a");
    assert_says(mesh, &output, code, words)
}

#[track_caller]
fn assert_says(mesh: &Mesh, output: &Output, code: i32, words: &[&str]) -> String {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for words in words.iter().chain(&["mend: "]) {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    assert!(
        !text.contains(&mesh.tokens("a").pin()),
        "the PIN is in:\n{text}"
    );
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// `node.toml:LINE: KEY`, the line being where `place` stands in the file.
fn at(mesh: &Mesh, file: &str, place: &str, key: &str) -> String {
    let text = mesh.read(file);
    let line = text
        .lines()
        .position(|line| line.contains(place))
        .expect("it is there")
        + 1;
    let name = file.rsplit('/').next().expect("a name");
    format!("{name}:{line}: {key}: ")
}

// --- the configuration -----------------------------------------------------------------------------

#[test]
fn a_good_configuration_passes_and_says_what_it_found() {
    let mesh = Mesh::new();
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("would start"), "{}", said(&output));
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let mesh = Mesh::new();
    fs::remove_file(mesh.path("a/node.toml")).expect("it was there");
    says(&mesh, 3, &["cannot open", "a/node.toml"]);
}

#[test]
fn a_configuration_that_others_may_read_is_refused() {
    let mesh = Mesh::new();
    only_ours(&mesh.path("a/node.toml"), 0o644);
    says(&mesh, 3, &["mode 0644", "chmod"]);
}

#[test]
fn a_misspelt_key_gets_the_nearest_known_one() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "trust_anchors", "trust_anchor");
    mesh.edit("a/node.toml", "drain_ms", "drain_sm");
    let places = [
        at(&mesh, "a/node.toml", "trust_anchor", "trust_anchor"),
        at(&mesh, "a/node.toml", "drain_sm", "limits.drain_sm"),
    ];
    says(
        &mesh,
        3,
        &[
            &places[0],
            "did you mean `trust_anchors`?",
            &places[1],
            "did you mean `drain_ms`?",
        ],
    );
}

#[test]
fn a_limit_out_of_range_gets_the_range() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "pin = ", "probe_ms = 1\npin = ");
    mesh.edit(
        "a/node.toml",
        "drain_ms = 60000",
        "handshake_deadline_ms = 1",
    );
    let place = at(
        &mesh,
        "a/node.toml",
        "handshake_deadline_ms",
        "limits.handshake_deadline_ms",
    );
    let probe = at(&mesh, "a/node.toml", "probe_ms", "token[0].probe_ms");
    says(
        &mesh,
        3,
        &[
            &place,
            "out of range",
            "from 100 to 120000",
            &probe,
            "from 100 to 3600000",
        ],
    );
}

#[test]
fn all_faults_are_named_at_once() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "id = \"spiffe://", "id = \"https://");
    mesh.edit(
        "a/node.toml",
        "pin = \"file:token/pin\"",
        "pin = \"env:PIN\"",
    );
    mesh.edit("a/node.toml", "module = \"/", "module = \"");
    mesh.edit("a/peers.toml", "sha256/", "sha1/");
    let text = says(
        &mesh,
        3,
        &[
            "id: ",
            "token[0].pin: ",
            "token[0].module: ",
            "peer[0].server.active: ",
        ],
    );
    assert!(text.matches("mend: ").count() >= 4, "{text}");
}

#[test]
fn faults_of_the_configuration_do_not_hide_those_behind_it() {
    let mesh = Mesh::new();
    // The file, its limits and the policy have faults, and so have the PIN, a key and the sockets.
    only_ours(&mesh.path("a/node.toml"), 0o644);
    mesh.edit("a/node.toml", "drain_ms = 60000", "drain_ms = 99999999");
    mesh.edit("a/peers.toml", "sha256/", "sha1/");
    mesh.edit("a/node.toml", "object=client\"", "object=klient\"");
    only_ours(&mesh.path("a/node.toml"), 0o644);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", mesh.ports["a"])).expect("a free port");
    mesh.write("a/admin.sock.unlock", "no socket");
    let behind = [
        "mode 0644",
        "limits.drain_ms: out of range",
        "peer[0].server.active: ",
        "cannot listen on 127.0.0.1:",
        "admin.sock.unlock exists and is not a socket",
    ];
    let key = at(&mesh, "a/node.toml", "klient", "token[0].client.key");
    says(&mesh, 3, &[&behind[..], &[&key, "no private key"]].concat());
    write_private(&mesh.path("a/token/wrong"), "123456789");
    mesh.edit("a/node.toml", "file:token/pin", "file:token/wrong");
    only_ours(&mesh.path("a/node.toml"), 0o644);
    let pin = at(&mesh, "a/node.toml", "file:token/wrong", "token[0].pin");
    says(
        &mesh,
        4,
        &[&behind[..], &[&pin, "the PIN is wrong"]].concat(),
    );
}

#[test]
fn a_module_is_not_tried_as_somebody_that_the_configuration_does_not_name() {
    let mesh = Mesh::new();
    let counter = FaultModule::before(&mesh);
    mesh.section("a", "\n[sandbox]\nnode_user = \"nobody-at-all\"\n");
    says(&mesh, 3, &["sandbox.node_user: "]);
    assert_eq!(logins(&counter), 0);
}

#[test]
fn check_starts_a_node_up_to_its_seal() {
    // More descriptors than the node may have: only its own start finds that out.
    let mesh = Mesh::new();
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 200; exec \"$@\"",
            "sh",
            FASTNESS,
            "check",
            "--config",
        ])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("a shell");
    let words = ["the node's process ended", "raise the limit of open files"];
    assert_says(&mesh, &output, 3, &words);
}

#[test]
fn a_port_in_use_is_named() {
    let mesh = Mesh::new();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", mesh.ports["a"])).expect("a free port");
    says(
        &mesh,
        8,
        &[
            &at(&mesh, "a/node.toml", "listen", "listen"),
            &format!("cannot listen on 127.0.0.1:{}", mesh.ports["a"]),
            "ss -ltnp",
        ],
    );
    assert_eq!(run_ends(&mesh), Some(8));
}

#[test]
fn run_refuses_with_the_same_words_as_check() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "object=server\"", "object=sever\"");
    let check = mesh.check("a");
    let output = Command::new(FASTNESS)
        .args(["run", "--config"])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("the binary");
    assert_eq!(
        output.status.code(),
        check.status.code(),
        "{}",
        said(&output)
    );
    for text in [said(&check), said(&output)] {
        assert!(
            text.contains("no private key pkcs11:") && text.contains("object=sever;"),
            "{text}"
        );
        assert!(
            text.contains("server"),
            "the keys that are there are named: {text}"
        );
    }
}

#[test]
fn faults_are_json_too() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "trust_anchors", "trust_anchor");
    let output = Command::new(FASTNESS)
        .args(["check", "--format", "json", "--config"])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("the binary");
    let value = crate::support::json(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(
        (&value["ok"], &value["exit"]),
        (&false.into(), &3.into()),
        "{value}"
    );
    let faults = value["faults"].as_array().expect("a list");
    let fault = faults
        .iter()
        .find(|fault| fault["key"] == "trust_anchor")
        .unwrap_or_else(|| panic!("{value}"));
    assert_eq!(
        (&fault["line"], &fault["mend"]),
        (&3.into(), &"did you mean `trust_anchors`?".into()),
        "{value}"
    );
}

// --- the PIN ---------------------------------------------------------------------------------------

#[test]
fn a_pin_is_never_taken_from_a_uri_a_command_line_or_the_environment() {
    let mesh = Mesh::new();
    mesh.edit(
        "a/node.toml",
        "uri = \"pkcs11:token=a\"",
        "uri = \"pkcs11:token=a?pin-value=hunter2\"",
    );
    let place = at(&mesh, "a/node.toml", "pin-value", "token[0].uri");
    let text = says(&mesh, 3, &[&place, "pin-value"]);
    assert!(!text.contains("hunter2"), "{text}");
    mesh.configure();
    for source in ["hunter2", "env:hunter2", "pass:hunter2"] {
        mesh.edit("a/node.toml", "file:token/pin", source);
        let text = says(
            &mesh,
            3,
            &[
                &at(&mesh, "a/node.toml", source, "token[0].pin"),
                "file:PATH",
            ],
        );
        assert!(!text.contains("hunter2"), "{text}");
        mesh.configure();
        let token = mesh.tokens("a");
        let output = token
            .fastness()
            .args([
                "token",
                "list",
                "--token",
                "pkcs11:token=a",
                "--pin",
                source,
                "--module",
            ])
            .arg(&token.module)
            .output()
            .expect("the binary");
        assert!(
            !output.status.success() && !said(&output).contains("hunter2"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_pin_file_that_others_may_read_or_that_is_a_link_is_refused() {
    let mesh = Mesh::new();
    let pin = mesh.path("a/token/pin");
    only_ours(&pin, 0o640);
    let place = at(&mesh, "a/node.toml", "pin = ", "token[0].pin");
    says(&mesh, 3, &[&place, "0640"]);
    only_ours(&pin, 0o600);
    symlink(&pin, mesh.path("a/link")).expect("a link");
    mesh.edit("a/node.toml", "file:token/pin", "file:link");
    says(&mesh, 3, &[&place, "symbolic link"]);
    mesh.edit("a/node.toml", "file:link", "file:nowhere");
    says(&mesh, 3, &[&place, "must exist"]);
    mesh.edit("a/node.toml", "file:nowhere", "file:token/empty");
    write_private(&mesh.path("a/token/empty"), "");
    says(&mesh, 3, &[&place, "empty"]);
}

#[test]
fn a_file_of_another_user_is_refused() {
    as_root("only root gives files away");
    let mesh = Mesh::new();
    for (file, words) in [
        ("a/token/pin", ["token[0].pin: ", "belongs to uid 2"]),
        ("a/node.toml", ["a/node.toml: ", "belongs to user 2"]),
        ("a/peers.toml", ["peers: ", "belongs to user 2"]),
        (
            "a/server.pem",
            ["token[0].server.certificate: ", "belongs to user 2"],
        ),
    ] {
        let chown = |owner: &str| run(Command::new("chown").arg(owner).arg(mesh.path(file)));
        chown("2");
        says(&mesh, 3, &words);
        chown("0");
    }
    assert_eq!(mesh.check("a").status.code(), Some(0));
}

fn logins(counter: &FaultModule) -> u64 {
    counter.counts().calls("C_Login")
}

#[test]
fn a_wrong_pin_is_tried_exactly_once() {
    let mesh = Mesh::new();
    let counter = FaultModule::before(&mesh);
    write_private(&mesh.path("a/token/wrong"), "123456789");
    mesh.edit("a/node.toml", "file:token/pin", "file:token/wrong");
    says(
        &mesh,
        4,
        &[
            &at(&mesh, "a/node.toml", "file:token/wrong", "token[0].pin"),
            "the PIN is wrong",
            "tried once",
        ],
    );
    assert_eq!(logins(&counter), 1);
    let start = || {
        Command::new(FASTNESS)
            .args(["run", "--config"])
            .arg(mesh.path("a/node.toml"))
            .output()
            .expect("the binary")
    };
    let mut tried = 1;
    if !in_softhsm() {
        // Of ten tries kryoptic says so when three are left.
        for _ in 0..6 {
            assert_says(&mesh, &start(), 4, &["the PIN is wrong", "tried once"]);
            tried += 1;
        }
    }
    assert_says(&mesh, &start(), 4, &["CKF_USER_PIN_COUNT_LOW"]);
    assert_eq!(logins(&counter), tried, "no start by itself tries another");
}

/// Which locks no PIN.
#[test]
fn a_softhsm_token_starts_once_its_wrong_pin_is_corrected() {
    if !in_softhsm() {
        return;
    }
    let mesh = Mesh::new();
    let right = mesh.read("a/token/pin");
    write_private(&mesh.path("a/token/pin"), "123456789");
    let spawn = || Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
    assert_eq!(spawn().wait_exit().code(), Some(4));
    write_private(&mesh.path("a/token/pin"), &right);
    spawn().wait_ready();
}

#[test]
fn a_pin_that_turns_wrong_while_a_node_runs_latches_its_keeper() {
    let mesh = Mesh::new();
    let counter = FaultModule::before(&mesh);
    let (a, b) = mesh.start_both();
    b.ping("a");
    assert_eq!(logins(&counter), 1);
    write_private(&mesh.path("a/token/pin"), "123456789");
    node::signal(a.pid("keeper"), Signal::KILL);
    a.wait_log("no further login by itself");
    let status = a.status();
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(
        status["reason"]
            .as_str()
            .expect("text")
            .contains("the PIN is wrong"),
        "{status}"
    );
    // The one connection lives on; nobody tries the PIN again, whatever is asked.
    b.ping("a");
    assert!(a.ask(&["ping", "b"]).is_err(), "nobody signs");
    assert_eq!(logins(&counter), 2);
    assert_eq!(a.pid("keeper"), 0);
}

// --- the module and the token ------------------------------------------------------------------------

#[test]
fn a_module_that_is_not_there_or_not_absolute_is_named() {
    let mesh = Mesh::new();
    let module = format!("{:?}", mesh.tokens("a").module);
    for (wrong, words) in [
        ("\"/nowhere/module.so\"", "is not there"),
        ("\"module.so\"", "not an absolute path"),
    ] {
        mesh.edit("a/node.toml", &module, wrong);
        says(
            &mesh,
            3,
            &[&at(&mesh, "a/node.toml", wrong, "token[0].module"), words],
        );
        mesh.configure();
    }
}

#[test]
fn a_file_that_is_no_pkcs11_module_is_named() {
    let mesh = Mesh::new();
    let module = format!("{:?}", mesh.tokens("a").module);
    let text_file = mesh.write("module.so", "not a library");
    mesh.edit("a/node.toml", &module, &format!("{text_file:?}"));
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "module.so", "token[0].module"),
            "not a shared library",
        ],
    );
    mesh.configure();
    let library = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("libc.so.6"));
    let library = library
        .into_iter()
        .find(|path| path.exists())
        .expect("the C library");
    mesh.edit("a/node.toml", &module, &format!("{library:?}"));
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "libc.so.6", "token[0].module"),
            "C_GetFunctionList",
        ],
    );
}

#[test]
fn a_token_that_is_not_there_is_named_with_those_that_are() {
    let mesh = Mesh::new();
    mesh.edit(
        "a/node.toml",
        "uri = \"pkcs11:token=a\"",
        "uri = \"pkcs11:token=z\"",
    );
    says(
        &mesh,
        5,
        &[
            &at(&mesh, "a/node.toml", "token=z", "token[0].uri"),
            "no token pkcs11:token=z",
            "tokens there: ",
            "token=a",
            "SOFTHSM2_CONF",
        ],
    );
    assert_eq!(run_ends(&mesh), Some(5));
}

/// With what `fastness run` ends that does not start: systemd tries again after 5 and 8.
fn run_ends(mesh: &Mesh) -> Option<i32> {
    let mut command = Command::new(FASTNESS);
    command
        .args(["run", "--config"])
        .arg(mesh.path("a/node.toml"));
    command.output().expect("the binary runs").status.code()
}

#[test]
fn a_uri_with_a_slot_number_or_without_a_token_is_refused() {
    let mesh = Mesh::new();
    for wrong in [
        "pkcs11:slot-id=0",
        "pkcs11:",
        "file:token",
        "pkcs11:token=%zz",
    ] {
        mesh.edit(
            "a/node.toml",
            "uri = \"pkcs11:token=a\"",
            &format!("uri = \"{wrong}\""),
        );
        says(
            &mesh,
            3,
            &[&at(&mesh, "a/node.toml", wrong, "token[0].uri")],
        );
        mesh.configure();
    }
}

// --- keys --------------------------------------------------------------------------------------------

/// Lets node `a` use the key `label` as its server key, certified by an authority of the test: our own
/// commands would not touch it.
fn use_as_server_key(
    mesh: &Mesh,
    label: &str,
    certify: impl FnOnce(&FileCa, &rcgen::CertificateParams) -> String,
) {
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    mesh.write(
        &format!("a/{label}.pem"),
        &certify(&ca, &FileCa::leaf(&id_of("a"), "server")),
    );
    mesh.edit(
        "a/node.toml",
        "object=server\"",
        &format!("object={label}\""),
    );
    mesh.edit("a/node.toml", "\"server.pem\"", &format!("\"{label}.pem\""));
}

fn from_hex(text: &str) -> Vec<u8> {
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

#[test]
fn a_key_that_is_missing_is_named_with_those_that_are_there() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "object=client\"", "object=klient\"");
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "klient", "token[0].client.key"),
            "no private key pkcs11:",
            "token=a;object=klient",
            "private keys there",
        ],
    );
}

#[test]
fn a_name_that_two_keys_have_is_refused() {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    // `keygen` would not make a second one with this label.
    run(&mut pkcs11(&mesh, "a", &["make-ec", "server", "none"]));
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "object=server", "token[0].server.key"),
            "2 private keys are pkcs11:",
            "token=a;object=server;",
            "name one by its id",
        ],
    );
    let again = token
        .fastness()
        .args([
            "token",
            "keygen",
            "--token",
            "pkcs11:token=a",
            "--label",
            "client",
            "--purpose",
            "client",
            "--pin",
        ])
        .arg(token.pin_source())
        .arg("--module")
        .arg(&token.module)
        .output()
        .expect("the binary");
    assert!(
        !again.status.success(),
        "a second key with the same label: {}",
        said(&again)
    );
}

#[test]
fn a_key_that_is_not_its_certificates_is_refused() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "object=server\"", "object=server-backup\"");
    says(
        &mesh,
        3,
        &[
            "token[0].server.key",
            "does not belong to its certificate",
            "fastness spki-pin",
        ],
    );
}

#[test]
fn a_key_whose_signature_its_certificate_does_not_verify_is_refused() {
    let mesh = Mesh::new();
    let fault = FaultModule::before(&mesh);
    assert_eq!(mesh.check("a").status.code(), Some(0));
    fault.order("corrupt C_Sign");
    says(
        &mesh,
        3,
        &[
            "token[0].server.key",
            "token[0].client.key",
            "does not belong to its certificate: the signature does not verify",
        ],
    );
    assert!(fault.counts().of("C_Sign", "corrupted") >= 2);
}

#[test]
fn one_key_for_both_roles_is_refused() {
    let mesh = Mesh::new();
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    let spki = spki_of(&mesh.read("a/server.pem"));
    mesh.write(
        "a/client.pem",
        &ca.certify(&spki, &FileCa::leaf(&id_of("a"), "client")),
    );
    mesh.edit("a/node.toml", "object=client\"", "object=server\"");
    says(&mesh, 3, &["token[0].client", "the same key"]);
}

#[test]
fn an_extractable_readable_or_many_purpose_key_is_refused() {
    let mesh = Mesh::new();
    for (flaw, attribute) in [
        ("extractable", "CKA_EXTRACTABLE is true"),
        ("readable", "CKA_SENSITIVE is false"),
        ("derives", "CKA_DERIVE is true"),
        ("decrypts", "CKA_DECRYPT is true"),
        ("unwraps", "CKA_UNWRAP is true"),
        ("signs-with-recovery", "CKA_SIGN_RECOVER is true"),
        ("modifiable", "CKA_MODIFIABLE is true"),
    ] {
        let label = format!("server-{flaw}");
        let spki = from_hex(&run(&mut pkcs11(&mesh, "a", &["make-ec", &label, flaw])));
        use_as_server_key(&mesh, &label, |ca, params| ca.certify(&spki, params));
        says(
            &mesh,
            3,
            &[
                &at(&mesh, "a/node.toml", &label, "token[0].server.key"),
                attribute,
                "keygen",
            ],
        );
        // Our own commands refuse it as well.
        let token = mesh.tokens("a");
        let output = token
            .fastness()
            .args([
                "token",
                "csr",
                "--key",
                &token.uri(&label),
                "--pin",
                &token.pin_source(),
                "--module",
            ])
            .arg(&token.module)
            .arg("--out")
            .arg(mesh.path(&format!("{label}.csr")))
            .output()
            .expect("the binary");
        assert!(!output.status.success(), "{}", said(&output));
        mesh.configure();
    }
}

#[test]
fn an_imported_key_is_refused() {
    let mesh = Mesh::new();
    let key = mesh.path("imported.key");
    run(Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
        ])
        .arg(&key));
    run(&mut pkcs11(
        &mesh,
        "a",
        &["import-ec", "server-imported", &key.display().to_string()],
    ));
    let public = run(Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(mesh.path("spki")));
    assert_eq!(public, "");
    let spki = fs::read(mesh.path("spki")).expect("written");
    use_as_server_key(&mesh, "server-imported", |ca, params| {
        ca.certify(&spki, params)
    });
    says(&mesh, 3, &["token[0].server.key", "import", "keygen"]);
}

#[test]
fn an_rsa_key_that_may_not_do_pss_is_found_at_the_start() {
    let mesh = Mesh::new();
    let key = from_hex(&run(&mut pkcs11(
        &mesh,
        "a",
        &["make-rsa-without-pss", "server-pkcs1"],
    )));
    use_as_server_key(&mesh, "server-pkcs1", |ca, params| {
        ca.certify_rsa(&key, params)
    });
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "server-pkcs1", "token[0].server.key"),
            "RSA-PSS",
        ],
    );
}

// --- certificates --------------------------------------------------------------------------------------

#[test]
fn a_key_in_another_role_than_its_label_says_is_noted() {
    let mesh = Mesh::new();
    let id = id_of("a");
    mesh.tokens("a").keygen("client-2026", "client", "p256");
    mesh.issue("a", "client-2026", "server", &id, "a/odd.pem");
    mesh.edit("a/node.toml", "object=server", "object=client-2026");
    mesh.edit("a/node.toml", "\"server.pem\"", "\"odd.pem\"");
    let checked = mesh.check("a");
    assert!(checked.status.success(), "{}", said(&checked));
    let note = "by its label it is a client key, here it is the server key";
    assert!(said(&checked).contains(note), "{}", said(&checked));
}

/// The keeper has nothing to try its keys with, and is sealed all the same.
#[test]
fn both_certificates_missing_are_two_faults_and_no_third() {
    let mesh = Mesh::new();
    for name in ["server", "client"] {
        std::fs::remove_file(mesh.path(&format!("a/{name}.pem"))).expect("it was there");
    }
    for _ in 0..4 {
        let output = Command::new(FASTNESS)
            .args(["check", "--format", "json", "--config"])
            .arg(mesh.path("a/node.toml"))
            .output()
            .expect("it runs");
        let found = json(&String::from_utf8(output.stdout).expect("text"));
        let faults = found["faults"].as_array().expect("a list");
        assert_eq!(faults.len(), 2, "{found}");
    }
}

#[test]
fn a_command_line_that_cannot_be_parsed_is_json_too() {
    let output = Command::new(FASTNESS)
        .args(["ping", "--format", "json"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let found = json(&String::from_utf8(output.stdout).expect("text"));
    assert_eq!((&found["ok"], &found["exit"]), (&false.into(), &2.into()));
    let message = found["message"].as_str().expect("text");
    assert!(message.contains("<PEER>"), "{message}");
}

#[test]
fn a_certificate_that_is_missing_or_no_certificate_is_named() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "\"server.pem\"", "\"nowhere.pem\"");
    says(
        &mesh,
        3,
        &[
            &at(
                &mesh,
                "a/node.toml",
                "nowhere.pem",
                "token[0].server.certificate",
            ),
            "cannot open",
        ],
    );
    mesh.write("a/nowhere.pem", "no certificate");
    says(
        &mesh,
        3,
        &[
            &at(
                &mesh,
                "a/node.toml",
                "nowhere.pem",
                "token[0].server.certificate",
            ),
            "certificate",
        ],
    );
}

#[test]
fn a_certificate_that_others_may_change_is_refused() {
    let mesh = Mesh::new();
    only_ours(&mesh.path("a/server.pem"), 0o666);
    says(
        &mesh,
        3,
        &["token[0].server.certificate", "mode 0666", "chmod go-w"],
    );
}

#[test]
fn certificates_that_peers_would_refuse_are_refused_here_first() {
    let mesh = Mesh::new();
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    let spki = spki_of(&mesh.read("a/server.pem"));
    let good = || FileCa::leaf(&id_of("a"), "server");
    let mut expired = good();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut future = good();
    future.not_before = rcgen::date_time_ymd(2090, 1, 1);
    future.not_after = rcgen::date_time_ymd(2091, 1, 1);
    let mut nameless = good();
    nameless.subject_alt_names.clear();
    let mut both = good();
    both.extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    for (params, words) in [
        (expired, "expired at 2021-01-01"),
        (future, "is not valid before 2090-01-01"),
        (nameless, "names no URI"),
        (both, "extended key usage is not exactly"),
        (
            FileCa::leaf(&id_of("a"), "client"),
            "extended key usage is for a client",
        ),
        (
            FileCa::leaf(&id_of("z"), "server"),
            "its identity is spiffe://test.example/node/z",
        ),
    ] {
        mesh.write("a/server.pem", &ca.certify(&spki, &params));
        says(
            &mesh,
            3,
            &[
                &at(
                    &mesh,
                    "a/node.toml",
                    "server.pem",
                    "token[0].server.certificate",
                ),
                words,
            ],
        );
    }
    mesh.write(
        "a/server.pem",
        &FileCa::new("Third root").certify(&spki, &good()),
    );
    says(
        &mesh,
        3,
        &[
            "token[0].server.certificate",
            "does not chain to the trust anchors",
        ],
    );
}

#[test]
fn trust_anchors_that_are_none_are_refused() {
    let mesh = Mesh::new();
    let good = mesh.read("ca/authority/ca.pem");
    for bad in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        mesh.write("ca/authority/ca.pem", bad);
        says(
            &mesh,
            3,
            &[&at(&mesh, "a/node.toml", "trust_anchors", "trust_anchors")],
        );
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&key).expect("a certificate").pem()
    };
    let leaf = root(|params| params.is_ca = rcgen::IsCa::ExplicitNoCa);
    let past = root(|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let key = key.serialize_pem();
    for (bad, words) in [
        (
            good.clone() + &leaf,
            "trust anchor 2 is not an authority's certificate",
        ),
        (
            good.clone() + &key,
            "entry 2 of the trust anchors is not a certificate",
        ),
        (past.clone(), "no trust anchor is in its validity"),
    ] {
        mesh.write("ca/authority/ca.pem", &bad);
        says(
            &mesh,
            3,
            &[
                &at(&mesh, "a/node.toml", "trust_anchors", "trust_anchors"),
                words,
            ],
        );
    }
    // An old one beside a good one is not believed, and in nobody's way.
    mesh.write("ca/authority/ca.pem", &(past + &good));
    assert_eq!(mesh.check("a").status.code(), Some(0));
    mesh.write("ca/authority/ca.pem", &good);
    assert_eq!(mesh.check("a").status.code(), Some(0));
}

// --- the peer policy -------------------------------------------------------------------------------------

#[test]
fn malformed_pins_are_named_with_their_place() {
    let mesh = Mesh::new();
    let good = mesh.pins["b/server"].clone();
    let of_nothing = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    for (bad, words) in [
        ("sha256/short", "is not the base64 of a SHA-256"),
        (of_nothing, "is the digest of the empty string"),
        (
            "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "is all zero",
        ),
        (
            good.trim_start_matches("sha256/"),
            "does not begin with `sha256/`",
        ),
    ] {
        mesh.edit("a/peers.toml", &good, bad);
        says(
            &mesh,
            3,
            &[
                &at(&mesh, "a/peers.toml", bad, "peer[0].server.active"),
                words,
                "fastness spki-pin",
            ],
        );
        mesh.configure();
    }
}

#[test]
fn a_pin_set_without_a_backup_is_refused() {
    let mesh = Mesh::new();
    let backup = format!("backup = \"{}\"\n", mesh.pins["b/server-backup"]);
    mesh.edit("a/peers.toml", &backup, "");
    says(
        &mesh,
        3,
        &["peers.toml:5: peer[0].server.backup: ", "is missing"],
    );
    mesh.configure();
    mesh.edit(
        "a/peers.toml",
        &mesh.pins["b/server-backup"],
        &mesh.pins["b/server"],
    );
    says(&mesh, 3, &["peer[0].server.backup: ", "is the same as"]);
}

#[test]
fn a_policy_that_is_missing_or_readable_by_others_is_refused() {
    let mesh = Mesh::new();
    only_ours(&mesh.path("a/peers.toml"), 0o604);
    says(
        &mesh,
        3,
        &[&at(&mesh, "a/node.toml", "peers = ", "peers"), "mode 0604"],
    );
    fs::remove_file(mesh.path("a/peers.toml")).expect("it was there");
    says(
        &mesh,
        3,
        &[
            &at(&mesh, "a/node.toml", "peers = ", "peers"),
            "cannot open",
        ],
    );
}

// --- commands ----------------------------------------------------------------------------------------------

#[test]
fn the_authority_takes_no_name_from_a_request_and_no_key_twice() {
    let mesh = Mesh::new();
    let ca = mesh.tokens("ca");
    let issue = |csr: &str, profile: &str, out: &str| {
        ca.fastness()
            .args([
                "ca",
                "issue",
                "--profile",
                profile,
                "--id",
                &id_of("a"),
                "--pin",
                &ca.pin_source(),
                "--dir",
            ])
            .arg(mesh.path("ca/authority"))
            .arg("--csr")
            .arg(mesh.path(csr))
            .arg("--out")
            .arg(mesh.path(out))
            .output()
            .expect("the binary")
    };
    let refused = issue("a/server.csr", "client", "x.pem");
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    let taken = issue("a/server.csr", "server", "a/server.pem");
    assert!(!taken.status.success(), "an existing file is not replaced");
    let garbage = mesh.write(
        "garbage.csr",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    );
    let refused = issue(&garbage.display().to_string(), "server", "y.pem");
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    // A request whose names claim more gets what the command line says.
    let (key, csr) = (mesh.path("evil.key"), mesh.path("evil.csr"));
    run(Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=root",
        ])
        .args([
            "-addext",
            "subjectAltName=URI:spiffe://test.example/node/b",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&csr)
        .stderr(std::process::Stdio::null()));
    mesh.issue_from(&csr, "client", &id_of("c"), &mesh.path("evil.pem"));
    let text = run(Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(mesh.path("evil.pem")));
    assert!(
        !text.contains("node/b") && text.contains("node/c") && !text.contains("CA:TRUE"),
        "{text}"
    );
}

#[test]
fn a_destroyed_key_is_gone_and_only_with_a_word() {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    let destroy = |word: &[&str]| {
        token
            .fastness()
            .args([
                "token",
                "destroy",
                "--key",
                &token.uri("client-backup"),
                "--pin",
                &token.pin_source(),
                "--module",
            ])
            .arg(&token.module)
            .args(word)
            .output()
            .expect("the binary")
    };
    assert_eq!(destroy(&[]).status.code(), Some(2));
    assert!(destroy(&["--yes"]).status.success());
    assert!(!destroy(&["--yes"]).status.success(), "it is gone");
}

#[test]
fn a_token_is_never_initialised_over() {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    let output = token
        .fastness()
        .args([
            "token",
            "init",
            "--label",
            "a",
            "--pin",
            &token.pin_source(),
            "--so-pin",
        ])
        .arg(format!("file:{}", token.folder.join("so-pin").display()))
        .arg("--module")
        .arg(&token.module)
        .output()
        .expect("the binary");
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    // And the script that prepares tokens leaves it as it is.
    let again = Tokens::prepare(&mesh.path("a"), "a");
    let before = mesh.read("a/token/pin");
    assert_eq!(again.pin(), before);
    eventually("it still checks", || {
        mesh.check("a").status.success().then_some(())
    });
}
