//! Whom the authority certifies and whom not, and whose folder it goes by.

use std::path::Path;
use std::process::Output;

use crate::support::files::only_ours;
use crate::support::{Mesh, as_root, id_of, said};

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

#[test]
fn an_authority_that_others_may_change_loads_no_module() {
    for (name, mode) in [
        ("", 0o777),
        ("", 0o1777),
        ("authority.toml", 0o666),
        ("ca.pem", 0o664),
        ("issued.jsonl", 0o622),
        ("revoked.jsonl", 0o620),
        ("crl-number", 0o602),
    ] {
        let mesh = Mesh::new();
        only_ours(&mesh.path("ca/authority").join(name), mode);
        // It is not looked for: whoever wrote this path is not asked.
        mesh.edit(
            "ca/authority/authority.toml",
            "module = \"",
            "module = \"/nowhere",
        );
        only_ours(
            &mesh.path("ca/authority/authority.toml"),
            if name == "authority.toml" {
                mode
            } else {
                0o600
            },
        );
        let refused = issue(&mesh, "a/server.csr", &id_of("a"), &mesh.path("new.pem"));
        let mode = format!("{mode:04o}");
        is_refused(&refused, &["--dir", name, &mode, "mend: chmod go-w"]);
        let refused = ca(&mesh, &["revoke", "--serial", "0a"]);
        is_refused(&refused, &["--dir", name, &mode]);
    }
}

#[test]
fn an_authority_of_another_user_loads_no_module() {
    as_root("only root gives files away");
    for name in ["", "authority.toml", "ca.pem", "issued.jsonl"] {
        let mesh = Mesh::new();
        let path = mesh.path("ca/authority").join(name);
        std::os::unix::fs::chown(&path, Some(2), None).expect("root may");
        let refused = issue(&mesh, "a/server.csr", &id_of("a"), &mesh.path("new.pem"));
        is_refused(&refused, &["--dir", name, "belongs to user 2"]);
    }
}
