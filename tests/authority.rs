//! Whom the authority certifies and whom not, and whose folder it goes by.

use std::path::Path;
use std::process::Output;

use crate::support::{Mesh, id_of, said};

/// `fastness ca` with these arguments, in the mesh's authority.
fn ca(mesh: &Mesh, arguments: &[&str]) -> Output {
    let ca = mesh.tokens("ca");
    ca.fastness()
        .arg("ca")
        .args(arguments)
        .arg("--dir")
        .arg(mesh.path("ca/authority"))
        .output()
        .expect("the binary")
}

fn issue(mesh: &Mesh, csr: &str, id: &str, out: &Path) -> Output {
    let (pin, csr) = (mesh.tokens("ca").pin_source(), mesh.path(csr));
    let (csr, out) = (csr.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let order = ["issue", "--profile", "server", "--id", id, "--pin", &pin];
    ca(mesh, &[&order[..], &["--csr", csr, "--out", out]].concat())
}

#[track_caller]
fn is_refused(output: &Output, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    for words in words {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

#[test]
fn a_key_is_certified_for_one_node() {
    let mesh = Mesh::new();
    let out = mesh.path("new.pem");
    let refused = issue(&mesh, "a/server.csr", &id_of("other"), &out);
    is_refused(&refused, &[&id_of("a"), "generate another key"]);
    assert!(!out.exists());
    let renewed = issue(&mesh, "a/server.csr", &id_of("a"), &out);
    assert!(renewed.status.success(), "{}", said(&renewed));
}

#[test]
fn a_nodes_key_makes_no_authority() {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    let made = token
        .fastness()
        .args(["token", "keygen", "--purpose", "server", "--id", "0a0b"])
        .args(["--label", "server_2", "--token", "pkcs11:token=a"])
        .args(["--pin", &token.pin_source(), "--module"])
        .arg(&token.module)
        .output()
        .expect("the binary");
    assert!(made.status.success(), "{}", said(&made));
    for (role, key) in [
        ("server", token.uri("server")),
        ("client", token.uri("client-backup")),
        ("server", "pkcs11:token=a;id=%0A%0B".to_owned()),
    ] {
        let output = token
            .fastness()
            .args(["ca", "init", "--name", "Root", "--dir"])
            .arg(mesh.path("new"))
            .arg("--module")
            .arg(&token.module)
            .args(["--key", &key, "--pin", &token.pin_source()])
            .output()
            .expect("the binary");
        is_refused(&output, &[&format!("a node's {role} key")]);
        assert!(!mesh.path("new").exists(), "nothing was made");
    }
}
