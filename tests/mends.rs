//! Every fault of a configuration is named at once, with a mend that mends it.

use crate::support::{Mesh, said};

/// What `check` of node `a` says, which must refuse it with `code`.
#[track_caller]
fn refused(mesh: &Mesh, code: i32) -> String {
    let output = mesh.check("a");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
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
