//! A FIFO in the place of a file is a fault; nobody waits for somebody to write into it.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{FASTNESS, Mesh, PATIENCE, said};

fn make_fifo(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
}

/// What `check` says within a minute.
#[track_caller]
fn check(mesh: &Mesh) -> String {
    let output = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .args([FASTNESS, "check", "--config"])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("timeout is part of coreutils");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    said(&output)
}

#[test]
fn a_fifo_in_the_place_of_any_file_is_named() {
    for (file, key) in [
        ("a/node.toml", ""),
        ("a/server.pem", "token[0].server.certificate"),
        ("a/peers.toml", "peers"),
        ("ca/authority/ca.pem", "trust_anchors"),
    ] {
        let mesh = Mesh::new();
        make_fifo(&mesh.path(file));
        let said = check(&mesh);
        let name = file.rsplit('/').next().unwrap_or_default();
        let problem = format!("{name} is not a regular file");
        assert!(said.contains(&problem) && said.contains(key), "{said}");
    }
    let mesh = Mesh::new();
    make_fifo(&mesh.path("a/node.json"));
    mesh.section("a", "\n[sandbox]\nnode_profile = \"node.json\"\n");
    let said = check(&mesh);
    assert!(said.contains("sandbox.node_profile"), "{said}");
}

#[test]
fn a_fifo_stops_no_running_node() {
    let mesh = Mesh::new();
    let (a, b) = mesh.start_both();
    make_fifo(&mesh.path("a/peers.toml"));
    let refused = a.ask(&["reload"]).unwrap_err();
    assert!(
        said(&refused).contains("is not a regular file"),
        "{}",
        said(&refused)
    );
    assert_eq!(a.status()["state"], "ready");
    b.ping("a");
}
