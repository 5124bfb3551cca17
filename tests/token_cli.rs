//! `fastness token …` on a real SoftHSM, judged by openssl, pkcs11-tool and p11tool.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::softhsm::{MODULE, PIN, SO_PIN, SoftHsm};
use crate::support::{FASTNESS, json, python, run};

/// Every problem of a listed key, in one text.
fn problems(key: &serde_json::Value) -> String {
    let faults = key["faults"].as_array().unwrap();
    faults
        .iter()
        .map(|fault| fault["problem"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join("; ")
}

#[test]
fn a_key_of_each_kind_is_generated_listed_requested_and_destroyed() {
    let hsm = SoftHsm::with_token();
    for kind in ["p256", "p384", "rsa2048", "rsa3072", "ed25519"] {
        hsm.keygen(kind, kind).good();
        let key = hsm.listed(kind);
        assert!(problems(&key).is_empty(), "{key}");
        let uri = format!("pkcs11:token=node;object={kind}");
        let file = format!("{kind}.csr");
        hsm.token("csr", &["--key", &uri, "--subject", kind, "--out", &file])
            .good();
        let verified = hsm
            .run(
                "openssl",
                &["req", "-in", &file, "-noout", "-verify", "-text"],
            )
            .good();
        assert!(verified.err.contains("verify OK"), "{verified:?}");
        if kind.starts_with("rsa") {
            for word in ["rsassaPss", "sha256", "0x20"] {
                assert!(verified.out.contains(word), "{verified:?}");
            }
        }
        hsm.token("destroy", &["--key", &uri, "--yes"]).good();
        hsm.token("csr", &["--key", &uri, "--out", "none.csr"])
            .refused(&["no private key"]);
        assert!(!hsm.path("none.csr").exists());
    }
    let left = hsm.pkcs11_tool(&["--list-objects"]).good();
    assert!(!left.out.contains("Key Object"), "{left:?}");
}

#[test]
fn an_rsa_key_of_4096_bits_is_made() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("ca", "rsa4096").good();
    assert_eq!(hsm.listed("ca")["kind"], "rsa4096");
}

#[test]
fn a_generated_key_has_every_protection_as_another_tool_sees_it() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("server", "p256").good();
    let seen = hsm
        .pkcs11_tool(&["--list-objects", "--type", "privkey"])
        .good();
    assert!(seen.out.contains("Usage:      sign\n"), "{seen:?}");
    assert!(
        seen.out
            .contains("sensitive, always sensitive, never extractable, local"),
        "{seen:?}"
    );
    assert!(seen.out.contains("Allowed mechanisms: ECDSA"), "{seen:?}");
    let seen = hsm
        .pkcs11_tool(&["--list-objects", "--type", "pubkey"])
        .good();
    assert!(seen.out.contains("Usage:      verify\n"), "{seen:?}");

    let evidence = &hsm.listed("server")["evidence"];
    for (name, value) in [
        ("CKA_PRIVATE", true),
        ("CKA_SENSITIVE", true),
        ("CKA_ALWAYS_SENSITIVE", true),
        ("CKA_EXTRACTABLE", false),
        ("CKA_NEVER_EXTRACTABLE", true),
        ("CKA_MODIFIABLE", false),
        ("CKA_COPYABLE", false),
        ("CKA_SIGN", true),
        ("CKA_DECRYPT", false),
        ("CKA_UNWRAP", false),
        ("CKA_SIGN_RECOVER", false),
        ("CKA_DERIVE", false),
        ("CKA_LOCAL", true),
    ] {
        assert_eq!(evidence["attributes"][name], value, "{name} in {evidence}");
    }
    assert_eq!(evidence["generated_by"], "CKM_EC_KEY_PAIR_GEN");
    assert_eq!(evidence["module_sets_local"], true);
    let trials = evidence["trials"].to_string();
    assert!(trials.contains("CKR_ATTRIBUTE_SENSITIVE"), "{trials}");
    assert!(trials.contains("CKR_KEY_UNEXTRACTABLE"), "{trials}");
}

#[test]
fn an_imported_key_is_refused() {
    let hsm = SoftHsm::with_token();
    hsm.run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            "key.pem",
        ],
    )
    .good();
    hsm.run(
        "softhsm2-util",
        &[
            "--import", "key.pem", "--token", "node", "--label", "imported", "--id", "aa", "--pin",
            PIN,
        ],
    )
    .good();
    assert!(problems(&hsm.listed("imported")).contains("CKA_LOCAL is false: the key was imported"));
    hsm.token(
        "csr",
        &[
            "--key",
            "pkcs11:token=node;object=imported",
            "--out",
            "key.csr",
        ],
    )
    .refused(&["is refused", "the key was imported"]);
    assert!(!hsm.path("key.csr").exists());
}

#[test]
fn an_extractable_key_is_refused_by_what_is_said_and_by_what_is_tried() {
    let hsm = SoftHsm::with_token();
    hsm.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "loose",
        "--id",
        "bb",
        "--extractable",
    ])
    .good();
    let problems = problems(&hsm.listed("loose"));
    for problem in [
        "CKA_EXTRACTABLE is true",
        "let the private key out (wrap with CKM_AES_KEY_WRAP_PAD)",
        "CKA_DECRYPT is true",
        "CKA_MODIFIABLE is true",
    ] {
        assert!(problems.contains(problem), "{problem:?} in {problems}");
    }
}

#[test]
fn keys_that_fastness_does_not_use_are_listed_with_the_reason() {
    let hsm = SoftHsm::with_token();
    hsm.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:secp521r1",
        "--label",
        "p521",
        "--id",
        "01",
    ])
    .good();
    hsm.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "nameless",
    ])
    .good();
    hsm.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "asks",
        "--id",
        "02",
        "--always-auth",
    ])
    .good();
    hsm.pkcs11_tool(&[
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
        "--label",
        "alone",
        "--id",
        "03",
    ])
    .good();
    hsm.pkcs11_tool(&["--delete-object", "--type", "pubkey", "--id", "03"])
        .good();
    let list = hsm
        .token("list", &["--token", "pkcs11:token=node"])
        .good()
        .out;
    for reason in [
        "neither P-256 nor P-384",
        "`id` is empty",
        "CKA_ALWAYS_AUTHENTICATE",
        "its public key is not in the token",
    ] {
        assert!(list.contains(reason), "{reason:?} in {list}");
    }
}

#[test]
fn a_label_or_an_id_that_is_taken_is_refused() {
    let hsm = SoftHsm::with_token();
    hsm.token(
        "keygen",
        &[
            "--token",
            "pkcs11:token=node",
            "--purpose",
            "client",
            "--id",
            "0a0b",
        ],
    )
    .good();
    assert_eq!(hsm.listed("client")["purpose"], "client");
    hsm.keygen("client", "p256")
        .refused(&["this label already"]);
    hsm.token(
        "keygen",
        &[
            "--token",
            "pkcs11:token=node",
            "--purpose",
            "server",
            "--id",
            "0A0B",
        ],
    )
    .refused(&["this id already"]);
}

#[test]
fn a_name_that_two_keys_have_is_refused_until_the_id_tells_them_apart() {
    let hsm = SoftHsm::with_token();
    for id in ["01", "02"] {
        hsm.pkcs11_tool(&[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "twin",
            "--id",
            id,
        ])
        .good();
    }
    let name = "pkcs11:token=node;object=twin";
    hsm.token("destroy", &["--key", name, "--yes"]).refused(&[
        "2 private keys",
        "id 01",
        "id 02",
        "by its id",
    ]);
    hsm.token("destroy", &["--key", &format!("{name};id=%01"), "--yes"])
        .good();
    hsm.token("destroy", &["--key", name, "--yes"]).good();
}

#[test]
fn a_wrong_pin_is_said_to_be_wrong_and_was_tried_once() {
    let hsm = SoftHsm::with_token();
    hsm.secret("wrong", "000000", 0o600);
    let list = [
        "token",
        "list",
        "--module",
        MODULE,
        "--token",
        "pkcs11:token=node",
        "--pin",
    ];
    let with = |source: &str| hsm.fastness(&[&list[..], &[source]].concat());
    with("file:wrong").refused(&["the PIN is wrong (CKR_PIN_INCORRECT)", "tried once"]);
    hsm.secret("short", "1", 0o600);
    with("file:short").refused(&["the PIN is wrong"]);
    hsm.secret("public", PIN, 0o644);
    with("file:public").refused(&["can be read or written by others", "chmod 600"]);
    with("file:missing").refused(&["cannot open the PIN source file:…"]);
    with("fd:9").refused(&["fd:9", "no such descriptor"]);
    with("credential:pin").refused(&["CREDENTIALS_DIRECTORY"]);
    with(PIN).refused(&["not a PIN source"]);
}

#[test]
fn a_wrong_pin_is_one_login_as_a_spy_between_us_and_the_module_counts() {
    let spy = [
        "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    ];
    let spy = spy
        .into_iter()
        .find(|path| fs::exists(path).unwrap())
        .expect("package opensc-pkcs11");
    let hsm = SoftHsm::with_token();
    hsm.secret("wrong", "000000", 0o600);
    for (source, logins) in [("file:wrong", 1), ("file:pin", 1)] {
        let log = hsm.path("spy.log");
        let output = hsm
            .command(env!("CARGO_BIN_EXE_fastness"))
            .args([
                "token",
                "list",
                "--module",
                spy,
                "--token",
                "pkcs11:token=node",
                "--pin",
                source,
            ])
            .env("PKCS11SPY", MODULE)
            .env("PKCS11SPY_OUTPUT", &log)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), source == "file:pin", "{output:?}");
        let calls = String::from_utf8_lossy(&fs::read(&log).unwrap())
            .matches(": C_Login")
            .count();
        assert_eq!(calls, logins, "{source}");
        fs::remove_file(log).unwrap();
    }
}

#[test]
fn a_pin_comes_from_a_descriptor_or_a_credential() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("server", "p256").good();
    let fastness = env!("CARGO_BIN_EXE_fastness");
    let list = format!("'{fastness}' token list --module {MODULE} --token pkcs11:token=node --pin");
    hsm.run("bash", &["-c", &format!("{list} fd:5 5<pin")])
        .good();
    hsm.run("bash", &["-c", &format!("{list} fd:5 5< <(cat pin)")])
        .good();
    fs::create_dir(hsm.path("credentials")).unwrap();
    fs::copy(hsm.path("pin"), hsm.path("credentials/user")).unwrap();
    let folder = hsm.path("credentials");
    hsm.run(
        "bash",
        &[
            "-c",
            &format!(
                "CREDENTIALS_DIRECTORY='{}' {list} credential:user",
                folder.display()
            ),
        ],
    )
    .good();
}

#[test]
fn a_path_that_is_no_module_is_refused_with_the_reason() {
    let hsm = SoftHsm::new();
    fs::write(hsm.path("text.so"), "not a library").unwrap();
    let text = hsm.path("text.so");
    let folder = hsm.folder().to_owned();
    for (path, word) in [
        ("libsofthsm2.so", "must be absolute"),
        ("/nonexistent/module.so", "cannot be read"),
        (folder.to_str().unwrap(), "not a regular file"),
        (text.to_str().unwrap(), "not a shared library"),
        (
            "/lib/x86_64-linux-gnu/libc.so.6",
            "it has no C_GetFunctionList",
        ),
    ] {
        hsm.fastness(&["token", "list", "--module", path])
            .refused(&[path, word]);
    }
    let copy = hsm.path("copy.so");
    fs::copy(MODULE, &copy).unwrap();
    let list = || hsm.fastness(&["token", "list", "--module", copy.to_str().unwrap()]);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for writable in [0o666, 0o664] {
        mode(&copy, writable);
        list().refused(&["others may change it"]);
    }
    mode(&copy, 0o644);
    mode(&folder, 0o777);
    list().refused(&["others may put another file there"]);
    mode(&folder, 0o700);
    list().good();
    fs::remove_file(hsm.path("softhsm2.conf")).unwrap();
    hsm.fastness(&["token", "list", "--module", MODULE])
        .refused(&["from C_Initialize", "SOFTHSM2_CONF"]);
}

#[test]
fn a_token_that_is_missing_doubled_or_named_by_slot_is_refused() {
    let hsm = SoftHsm::with_token();
    let list = |uri: &str| hsm.token("list", &["--token", uri]);
    list("pkcs11:token=other").refused(&["no token pkcs11:token=other", "token=node"]);
    list("pkcs11:token=node;slot-id=0").refused(&["`slot-id` is not taken", "numbered anew"]);
    list(&format!("pkcs11:token=node?pin-value={PIN}")).refused(&["`pin-value` is not taken"]);
    hsm.run(
        "softhsm2-util",
        &[
            "--init-token",
            "--free",
            "--label",
            "node",
            "--so-pin",
            SO_PIN,
            "--pin",
            PIN,
        ],
    )
    .good();
    list("pkcs11:token=node").refused(&["2 tokens are pkcs11:token=node", "serial="]);
}

#[test]
fn an_initialised_token_is_never_overwritten_and_pins_must_fit() {
    let hsm = SoftHsm::with_token();
    let init = |label: &str, pin: &str| {
        hsm.fastness(&[
            "token",
            "init",
            "--module",
            MODULE,
            "--label",
            label,
            "--so-pin",
            "file:so-pin",
            "--pin",
            pin,
        ])
    };
    init("node", "file:pin").refused(&["exists already"]);
    init("a label that is longer than 32 bytes", "file:pin").refused(&["longer than 32 bytes"]);
    hsm.secret("short", "123", 0o600);
    init("second", "file:short").refused(&["the user PIN must have 4 to 255 bytes"]);
    init("second", "file:pin").good();
    let list = hsm
        .fastness(&["token", "list", "--module", MODULE])
        .good()
        .out;
    assert!(
        list.contains("Token \"node\"") && list.contains("Token \"second\""),
        "{list}"
    );
}

#[test]
fn names_are_those_that_p11tool_prints() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("sörver; 1", "p256").good();
    let listed = hsm.listed("sörver; 1");
    let ours = listed["uri"].as_str().unwrap();
    let provider = format!("--provider={MODULE}");
    let tokens = hsm
        .run("p11tool", &[&provider, "--list-token-urls"])
        .good()
        .out;
    let token = tokens
        .lines()
        .find(|line| line.contains("token=node"))
        .unwrap();
    let keys = hsm
        .run("bash", &["-c", &format!("GNUTLS_PIN={PIN} p11tool {provider} --batch --login --only-urls --list-privkeys '{token}'")])
        .good()
        .out;
    assert_eq!(keys.trim(), ours);
    assert!(ours.starts_with(token), "{ours} {token}");
}

#[test]
fn a_file_is_not_overwritten_and_a_key_not_destroyed_without_being_told() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("server", "p256").good();
    let key = ["--key", "pkcs11:token=node;object=server"];
    fs::write(hsm.path("server.csr"), "mine").unwrap();
    let csr = [&key[..], &["--out", "server.csr"]].concat();
    hsm.token("csr", &csr)
        .refused(&["server.csr exists", "--force"]);
    assert_eq!(fs::read(hsm.path("server.csr")).unwrap(), b"mine");
    hsm.token("csr", &[&csr[..], &["--force"]].concat()).good();
    assert!(
        fs::read(hsm.path("server.csr"))
            .unwrap()
            .starts_with(b"-----BEGIN CERTIFICATE REQUEST")
    );
    hsm.token("destroy", &key).refused(&["--yes"]);
    hsm.listed("server");
}

#[test]
fn six_programs_that_start_at_once_all_log_in() {
    let hsm = SoftHsm::with_token();
    hsm.keygen("server", "p256").good();
    for _ in 0..5 {
        let started: Vec<_> = (0..6)
            .map(|_| {
                hsm.command(env!("CARGO_BIN_EXE_fastness"))
                    .args([
                        "token",
                        "list",
                        "--module",
                        MODULE,
                        "--token",
                        "pkcs11:token=node",
                        "--pin",
                        "file:pin",
                    ])
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in started {
            crate::softhsm::Ran::of(child.wait_with_output().unwrap()).good();
        }
    }
}

/// `fastness token init` on a terminal, where somebody types `lines`.
fn typed(hsm: &SoftHsm, lines: &[&str]) -> serde_json::Value {
    let said = run(python("terminal.py")
        .args(lines)
        .args(["--", FASTNESS, "token", "init", "--module", MODULE])
        .args(["--label", "typed", "--so-pin", "prompt", "--pin", "prompt"])
        .env("SOFTHSM2_CONF", hsm.path("softhsm2.conf")));
    let said = json(&said);
    for secret in [PIN, SO_PIN] {
        let shown = said["shown"].as_str().unwrap();
        assert!(!shown.contains(secret), "{shown}");
    }
    // Whatever happened, the terminal is as it was.
    assert_eq!(said["echo_at_end"], true, "{said}");
    assert!(
        said["echo"]
            .as_array()
            .unwrap()
            .iter()
            .all(|echo| echo == false),
        "{said}"
    );
    said
}

#[test]
fn pins_that_are_set_at_a_terminal_are_typed_twice_and_not_shown() {
    let hsm = SoftHsm::new();
    let said = typed(&hsm, &[SO_PIN, SO_PIN, PIN, "141421"]);
    assert_ne!(said["exit"], 0, "two different PINs: {said}");
    let said = typed(&hsm, &[SO_PIN, "^C"]);
    assert_ne!(said["exit"], 0, "Ctrl-C: {said}");
    assert_eq!(said["echo"].as_array().unwrap().len(), 2, "{said}");
    let said = typed(&hsm, &[SO_PIN, SO_PIN, PIN, PIN]);
    assert_eq!(said["exit"], 0, "{said}");
    assert!(
        said["shown"].as_str().unwrap().contains("is initialised"),
        "{said}"
    );
    // The PIN that was typed is the token's.
    let listed = ["--token", "pkcs11:token=typed"];
    hsm.token("list", &listed).good();
}
