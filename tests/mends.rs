//! Every fault of a configuration is named at once, with a mend that mends it.

use crate::support::files::spki_of;
use crate::support::{FileCa, Mesh, id_of, said};

/// What `check` of node `a` says, which must refuse it with `code`.
#[track_caller]
fn refused(mesh: &Mesh, code: i32) -> String {
    let output = mesh.check("a");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// The configuration of node `a`: what stands before its token, the token, and what stands behind it.
fn around_the_token(mesh: &Mesh) -> [String; 3] {
    let text = mesh.read("a/node.toml");
    let (head, rest) = text.split_at(text.find("[[token]]").expect("a token"));
    let (token, tail) = rest.split_at(rest.find("[limits]").expect("limits"));
    [head, token, tail].map(str::to_owned)
}

#[test]
fn every_missing_key_is_named_at_once() {
    let mesh = Mesh::new();
    mesh.write("a/node.toml", "");
    let said = refused(&mesh, 3);
    for key in ["id", "listen", "trust_anchors", "peers", "token"] {
        let fault = format!("node.toml:1: {key}: is missing");
        assert!(said.contains(&fault), "{fault:?} is not in:\n{said}");
    }
    mesh.write("a/node.toml", "[[token]]\n[[token]]\nuri = 1\n");
    let said = refused(&mesh, 3);
    for key in ["module", "uri", "pin", "server", "client"] {
        let fault = format!("token[0].{key}: is missing");
        assert!(said.contains(&fault), "{fault:?} is not in:\n{said}");
    }
    let of_second = ["token[1].uri: not acceptable", "token[1].pin: is missing"];
    for fault in of_second {
        assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
    }
    assert!(!said.contains("server.key"), "{said}");
}

#[test]
fn a_missing_or_misspelt_key_hides_no_fault_behind_it() {
    let mesh = Mesh::new();
    let port = mesh.ports["a"];
    mesh.edit("a/node.toml", &format!("0.1:{port}"), "0.1/7443");
    for (from, to) in [
        ("id = ", "# id = "),
        ("listen = ", "lisen = "),
        ("\"../ca/authority/ca.pem\"", "\"nowhere.pem\""),
        ("trust_anchors", "trust_anchor"),
        ("object=client", "object=nobody"),
        (
            "drain_ms = 60000",
            "drain_ms = -1\n[application]\nupstreem = \"nowhere\"",
        ),
    ] {
        mesh.edit("a/node.toml", from, to);
    }
    let peers = mesh.read("a/peers.toml");
    let peers = peers
        .replace("name = ", "# name = ")
        .replace("127.0.0.1:", "127.0.0.1/");
    mesh.write("a/peers.toml", &peers);
    let said = refused(&mesh, 3);
    for fault in [
        "node.toml:1: id: is missing",
        "node.toml:2: lisen: unknown key",
        "node.toml:2: listen[0]: ",
        "node.toml:3: trust_anchor: unknown key",
        "node.toml:3: trust_anchors: ",
        "token[0].client.key: ",
        "limits.drain_ms: out of range",
        "application.upstreem: unknown key",
        "application.upstream: ",
        "peer[0].name: is missing",
        "peer[0].addresses[0]: ",
    ] {
        assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
    }
    // What was put in the place of a key says nothing for itself.
    assert_eq!(said.matches(" id: ").count(), 1, "{said}");
    assert_eq!(said.matches("peer[0].name: ").count(), 1, "{said}");
    assert!(!said.contains("not opened"), "{said}");
}

#[test]
fn a_token_that_is_not_opened_is_named_and_the_next_one_is() {
    let mesh = Mesh::new();
    let [head, token, tail] = around_the_token(&mesh);
    let second = token.replace("object=client", "object=nobody");
    let text = format!("{head}{token}{second}{tail}").replacen("pin = ", "# pin = ", 1);
    mesh.write("a/node.toml", &text);
    let said = refused(&mesh, 3);
    for fault in [
        "token[0].pin: is missing",
        "token[1].client.key: ",
        "not opened until then: token[0]",
    ] {
        assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
    }
}

/// No keeper is started as the supervisor's user, or by its profile, where another one may be meant.
#[test]
fn a_token_is_not_tried_while_its_user_or_the_supervisors_profile_is_open() {
    let mesh = Mesh::new();
    let [head, token, tail] = around_the_token(&mesh);
    let second = token.replace("pin = ", "user = \"nobody-of-this-name\"\npin = ");
    for (first, sandbox, faults) in [
        (
            "pin = ",
            "node_user = \"nobody-of-this-name\"",
            &[
                "sandbox.node_user: no user",
                "token[0].user: is missing",
                "token[1].user: no user",
                "not opened until then: token[0], token[1]",
            ][..],
        ),
        (
            "# pin = ",
            "",
            &[
                "sandbox.node_user: is missing",
                "token[0].pin: is missing",
                "token[0].user: is missing",
                "token[1].user: no user",
                "not opened until then: token[0], token[1]",
            ],
        ),
    ] {
        let first = token.replace("pin = ", first);
        mesh.write(
            "a/node.toml",
            &format!("{head}{first}{second}{tail}\n[sandbox]\n{sandbox}\n"),
        );
        let said = refused(&mesh, 3);
        for fault in faults {
            assert_eq!(said.matches(fault).count(), 1, "{fault:?} in:\n{said}");
        }
    }
}

/// Nor where what confines it may stand in a wrong place.
#[test]
fn a_token_is_not_tried_while_a_line_about_its_confinement_is_misplaced() {
    for (from, to, fault) in [
        (
            "[token.client]\n",
            "[token.client]\nuser = \"x\"\n",
            "token[0].client.user: unknown key",
        ),
        (
            "[token.client]\n",
            "[token.client]\nprofile = \"x\"\n",
            "token[0].client.profile: unknown key",
        ),
        (
            "[limits]\n",
            "[limits]\nnode_user = \"x\"\n",
            "limits.node_user: unknown key",
        ),
        (
            "id = ",
            "supervisor_profile = \"x\"\nid = ",
            "node.toml:1: supervisor_profile: unknown key",
        ),
        (
            "[limits]\n",
            "[sandbox]\nsupervisor = \"x\"\n[limits]\n",
            "sandbox.supervisor: unknown key",
        ),
        (
            "[limits]\n",
            "[sandbox]\nsupervisor_profile = \"x\"\n[limits]\n",
            "sandbox.supervisor_profile: ",
        ),
        (
            "[limits]\n",
            "[sandbox]\nresolver_user = \"mail\"\n[limits]\n",
            "sandbox.resolver_user: ",
        ),
        (
            "[limits]\n",
            "[[sandbox]]\nnode_user = \"x\"\n[limits]\n",
            "sandbox[0]: not acceptable",
        ),
    ] {
        let mesh = Mesh::new();
        mesh.edit("a/node.toml", from, to);
        let said = refused(&mesh, 3);
        for fault in [fault, "not opened until then: token[0]"] {
            assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
        }
    }
}

#[test]
fn a_peer_without_a_name_may_not_be_without_a_role_either() {
    let mesh = Mesh::new();
    let id = id_of("b");
    mesh.write("a/peers.toml", &format!("[[peer]]\nid = {id:?}\n"));
    let said = refused(&mesh, 3);
    for fault in ["peer[0].name: is missing", "peer[0]: may act in no role"] {
        assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
    }
}

#[test]
fn nothing_for_the_loader_and_no_name_that_is_none_is_in_a_modules_environment() {
    for (line, fault) in [
        (
            "LD_PRELOAD = \"/x.so\"",
            "token[0].environment.LD_PRELOAD: ",
        ),
        ("GCONV_PATH = \".\"", "token[0].environment.GCONV_PATH: "),
        ("\"A=B\" = \"x\"", "token[0].environment: has a name"),
        ("\"\" = \"x\"", "token[0].environment: has a name"),
    ] {
        let mesh = Mesh::new();
        let section = "[token.environment]\n";
        mesh.edit("a/node.toml", section, &format!("{section}{line}\n"));
        let said = refused(&mesh, 3);
        assert!(said.contains(fault), "{fault:?} is not in:\n{said}");
    }
}

#[test]
fn a_listener_has_a_port_and_a_policy_that_lists_nobody_is_noted() {
    let mesh = Mesh::new();
    let port = mesh.ports["a"];
    mesh.edit("a/node.toml", &format!("127.0.0.1:{port}"), "127.0.0.1:0");
    let said = refused(&mesh, 3);
    assert!(said.contains("listen[0]: has no port"), "{said}");
    mesh.configure();
    for (policy, note) in [
        (String::new(), "lists nobody"),
        (
            mesh.peer("b").replace("addresses", "#"),
            "peer b has pins as a server",
        ),
    ] {
        mesh.write("a/peers.toml", &policy);
        let output = mesh.check("a");
        let said = crate::support::said(&output);
        assert!(output.status.success() && said.contains(note), "{said}");
    }
}

/// What `listen` of node `a` has.
fn port(mesh: &Mesh) -> String {
    format!("[\"127.0.0.1:{}\"]", mesh.ports["a"])
}

/// What spoils a configuration, the fault and its mend.
type Spoilt = (&'static dyn Fn(&Mesh), &'static str, &'static str);

#[test]
fn a_fault_says_what_mends_it() {
    let spoilt: [Spoilt; 10] = [
        (
            &|mesh| mesh.edit("a/node.toml", "pin = ", "sessions = 300\npin = "),
            "token[0].sessions: out of range",
            "from 1 to 64",
        ),
        (
            &|mesh| mesh.edit("a/node.toml", "pin = ", "sessions = -1\npin = "),
            "token[0].sessions: out of range",
            "from 1 to 64",
        ),
        (
            &|mesh| mesh.edit("a/node.toml", "drain_ms = 60000", "drain_ms = -1"),
            "limits.drain_ms: out of range",
            "from 0 to 3600000",
        ),
        (
            &|mesh| mesh.section("a", "[sandbox]\ndial_ports = [70000]\n"),
            "sandbox.dial_ports[0]: is no port",
            "from 1 to 65535",
        ),
        (
            &|mesh| mesh.edit("a/node.toml", "pin = ", "ports = [1792, 0]\npin = "),
            "token[0].ports[1]: is no port",
            "from 1 to 65535",
        ),
        (
            &|mesh| mesh.edit("a/node.toml", &port(mesh), "[\"192.0.2.1:7443\"]"),
            "cannot listen on 192.0.2.1:7443",
            "name an address of this machine",
        ),
        (
            &|mesh| {
                let address = port(mesh);
                let twice = address.replace("[\"", "[\"127.0.0.1:9\", \"127.0.0.1:9\", \"");
                mesh.edit("a/node.toml", &address, &twice);
            },
            "listen[1]: is named twice",
            "name each address once",
        ),
        (
            &|mesh| {
                let module = mesh.tokens("a").module;
                mesh.edit("a/node.toml", &format!("{module:?}"), "\"/tmp\"");
            },
            "token[0].module: /tmp is not a file",
            "SoftHSM's is",
        ),
        (
            &|mesh| {
                let pem = std::fs::read(mesh.path("a/server.pem")).expect("a certificate");
                let (_, der) =
                    der::Document::from_pem(std::str::from_utf8(&pem).expect("PEM")).expect("PEM");
                std::fs::write(mesh.path("a/server.pem"), der.as_bytes()).expect("our own file");
            },
            "server.pem is not UTF-8 text",
            "openssl x509 -inform DER",
        ),
        (
            &|mesh| drop(mesh.write("a/token/pin", "12\n34\n")),
            "token[0].pin: not one line of UTF-8 text",
            "mend: write the PIN alone",
        ),
    ];
    for (spoil, fault, mend) in spoilt {
        let mesh = Mesh::new();
        spoil(&mesh);
        // An address may be there later.
        let code = if fault.starts_with("cannot listen") {
            8
        } else {
            3
        };
        let said = refused(&mesh, code);
        assert!(
            said.contains(fault) && said.contains(mend),
            "{fault:?}:\n{said}"
        );
    }
}

#[test]
fn a_users_fault_is_one_fault() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "pin = ", "user = \"root\"\npin = ");
    mesh.section("a", "[sandbox]\nnode_user = \"daemon\"\n");
    let said = refused(&mesh, 3);
    assert!(said.contains("token[0].user: root may do"), "{said}");
    assert!(!said.contains("user: is missing"), "{said}");
}

#[test]
fn a_certificate_that_no_intermediate_saves_is_not_asked_for_one() {
    let mesh = Mesh::new();
    let ca = FileCa::new("Second root");
    let anchors = mesh.read("ca/authority/ca.pem") + &ca.pem;
    mesh.write("ca/authority/ca.pem", &anchors);
    let spki = spki_of(&mesh.read("a/server.pem"));
    let mut odd = FileCa::leaf(&id_of("a"), "server");
    let mut unknown =
        rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], vec![5, 0]);
    unknown.set_criticality(true);
    odd.custom_extensions.push(unknown);
    mesh.write("a/server.pem", &ca.certify(&spki, &odd));
    let said = refused(&mesh, 3);
    for words in [
        "UnsupportedCriticalExtension",
        "have another certificate issued",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    assert!(!said.contains("OtherError"), "{said}");

    let good = FileCa::leaf(&id_of("a"), "server");
    mesh.write(
        "a/server.pem",
        &FileCa::new("Third root").certify(&spki, &good),
    );
    assert!(refused(&mesh, 3).contains("add the intermediates"));
}
