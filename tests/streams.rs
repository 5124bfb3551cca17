//! Nobody hears what a command says: the pipe is full, or its reader is gone. The exit code is the same.

use std::process::{Command, Stdio};

use crate::support::{FASTNESS, Mesh, Node, Options, full_pipe, said};

/// A pipe whose reader is gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// The exit code of `run` with a wrong PIN and this standard error.
#[track_caller]
fn exit_of_a_refused_pin(log: Stdio) -> Option<i32> {
    let mesh = Mesh::new();
    mesh.write("a/token/pin", "000000\n");
    let options = Options {
        log: Some(log),
        ..Options::default()
    };
    Node::spawn("a", &mesh.path("a"), mesh.ports["a"], options)
        .wait_exit()
        .code()
}

#[test]
fn a_refused_pin_ends_run_with_its_own_code_though_nobody_hears_why() {
    assert_eq!(exit_of_a_refused_pin(closed_pipe()), Some(4));
    let (_unread, log) = full_pipe();
    assert_eq!(exit_of_a_refused_pin(log), Some(4));
}

#[test]
fn a_command_that_fails_unheard_has_its_exit_code() {
    for format in ["human", "json"] {
        let status = Command::new(FASTNESS)
            .args(["status", "--admin", "/nonexistent", "--format", format])
            .stdout(closed_pipe())
            .stderr(closed_pipe())
            .status()
            .expect("the binary runs");
        assert_eq!(status.code(), Some(6), "{format}: {status}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    let module = token.module.to_str().expect("UTF-8");
    let certificate = mesh.path("a/server.pem");
    let certificate = certificate.to_str().expect("UTF-8");
    let commands: [&[&str]; 6] = [
        &["completions", "bash"],
        &["completions", "zsh"],
        &["man"],
        &["spki-pin", certificate],
        &["token", "list", "--module", module],
        &["sandbox", "show"],
    ];
    for arguments in commands {
        let output = token
            .fastness()
            .args(arguments)
            .stdout(closed_pipe())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
}
