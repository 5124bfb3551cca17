//! Every kind of key that may stand in a token: handshakes in both directions with it.

use crate::support::{Mesh, id_of};

fn works(kind: &str) {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    for role in ["server", "client"] {
        let label = format!("{role}-new");
        let pin = token.keygen(&label, role, kind);
        mesh.issue("a", &label, role, &id_of("a"), &format!("a/{label}.pem"));
        mesh.edit(
            "a/node.toml",
            &format!("object={role}\""),
            &format!("object={label}\""),
        );
        mesh.edit(
            "a/node.toml",
            &format!("\"{role}.pem\""),
            &format!("\"{label}.pem\""),
        );
        mesh.edit("b/peers.toml", &mesh.pins[&format!("a/{role}")], &pin);
    }
    let (a, b) = mesh.start_both();
    a.ping("b");
    b.ping("a");
}

#[test]
fn p384() {
    works("p384");
}

#[test]
fn rsa_2048() {
    works("rsa2048");
}

#[test]
fn rsa_3072() {
    works("rsa3072");
}

#[test]
fn rsa_4096() {
    works("rsa4096");
}

#[test]
fn ed25519() {
    works("ed25519");
}

#[test]
fn a_peer_may_use_its_backup_key_at_any_time() {
    let mesh = Mesh::new();
    for role in ["server", "client"] {
        let label = format!("{role}-backup");
        mesh.issue("a", &label, role, &id_of("a"), &format!("a/{label}.pem"));
        mesh.edit(
            "a/node.toml",
            &format!("object={role}\""),
            &format!("object={label}\""),
        );
        mesh.edit(
            "a/node.toml",
            &format!("\"{role}.pem\""),
            &format!("\"{label}.pem\""),
        );
    }
    let (a, b) = mesh.start_both();
    assert_eq!(a.ping("b")["seen_as"]["pin_label"], "backup");
    assert_eq!(b.ping("a")["connection"]["pin_label"], "backup");
}
