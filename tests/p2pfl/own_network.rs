//! `hsm-setup/own-network` when two want the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use crate::support::network::address;
use crate::support::{Judge, Network, eventually, root, run, said};

fn own_network(network: &Network, name: &str, socket: &Path) -> Command {
    let mut command = network.command("a", root().join("hsm-setup/own-network"));
    command
        .arg(network.namespace(name))
        .arg(format!("{}:6666={}", address(0), socket.display()));
    command
}

#[test]
fn who_comes_second_leaves_the_first_its_namespace_and_its_socket() {
    let mut network = Network::new(&["a"]);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    let refused = |command: &Command, words: &str| {
        // One that is not refused would run on.
        let mut limited = Command::new("timeout");
        limited
            .arg("30")
            .arg(command.get_program())
            .args(command.get_args());
        limited.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let output = limited.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    };
    // One that was killed left it.
    drop(UnixListener::bind(&socket).unwrap());
    let mut first = Judge::start(&mut own_network(&network, "app", &socket));
    assert!(first.hear().starts_with("ready"));
    network.adopt("app");
    eventually("the socket", || UnixStream::connect(&socket).ok());

    // This one looked for namespaces before the first had made its own.
    let ip = folder.path().join("ip");
    let real = run(Command::new("sh").args(["-c", "command -v ip"]));
    let real = real.trim();
    let script = format!("#!/bin/sh\n[ \"$*\" = 'netns list' ] || exec {real} \"$@\"\n");
    fs::write(&ip, script).unwrap();
    fs::set_permissions(&ip, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let early = format!("{}:{path}", folder.path().display());
    let mut second = own_network(&network, "app", &socket);
    refused(second.env("PATH", early), "no network namespace");
    refused(&own_network(&network, "other", &socket), "somebody listens");

    let namespaces = run(Command::new("ip").args(["netns", "list"]));
    assert!(
        namespaces.contains(&network.namespace("app")),
        "{namespaces}"
    );
    assert!(
        !namespaces.contains(&network.namespace("other")),
        "{namespaces}"
    );
    assert!(UnixStream::connect(&socket).is_ok());
}
