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
