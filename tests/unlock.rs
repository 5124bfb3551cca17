//! A PIN that cannot be taken again: the replacement waits sealed and says so, and an operator feeds it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::rehearsal::{Rehearsal, is_ready, restarts};
use crate::support::terminal::Terminal;
use crate::support::{FASTNESS, Mesh, Node, Options, eventually, said};

/// Kills the keeper, and waits until the status says that `a` waits for its PIN.
#[track_caller]
fn lose_keeper(a: &Node) {
    signal(a.pid("keeper"), Signal::KILL);
    eventually("the status says that it waits for its PIN", || {
        let status = a.status();
        let reason = status["reason"].as_str()?;
        (status["state"] == "degraded" && reason.contains("fastness unlock --pin prompt"))
            .then_some(())
    });
    assert_eq!(a.pid("keeper"), 0, "no process waits in its place");
}

#[track_caller]
fn is_refused(a: &Node, arguments: &[&str], exit: i32, why: &str) {
    let output = a.admin(&[&["unlock"], arguments].concat());
    let said = said(&output);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert!(said.contains(why), "{said}");
    assert!(said.contains("no PIN was tried"), "{said}");
}

#[test]
fn unlock_says_when_there_is_nothing_to_unlock() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let source = mesh.tokens("a").pin_source();
    for arguments in [&[][..], &["--token", "a"], &["--pin", &source]] {
        is_refused(&a, arguments, 3, "no such token waits for its PIN");
    }
    let other = ["--token", "other", "--pin", &source];
    is_refused(&a, &other, 2, "no such token; there are: a");
}

#[test]
fn a_typed_pin_is_asked_for_at_the_start_and_again_by_unlock_and_is_never_shown() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "\"file:token/pin\"", "\"prompt\"");
    let pin = mesh.tokens("a").pin();
    let config = mesh.path("a/node.toml");
    let log = mesh.write("a/log", "");
    let mut terminal = Terminal::start(&format!(
        "{FASTNESS} run --config {} 2>>{}",
        config.display(),
        log.display()
    ));
    terminal.wait("User PIN for token");
    terminal.type_line(pin.trim());
    let a = Node::attached("a", &mesh.path("a"), mesh.ports["a"]);
    a.wait_ready();
    let b = mesh.start("b");
    b.ping("a");

    lose_keeper(&a);
    let before = restarts(&a);
    assert!(b.ask(&["ping", "a"]).is_ok(), "established calls go on");
    is_refused(&a, &[], 4, "cannot be taken from its source again");

    let mut operator = Terminal::start(&format!(
        "{FASTNESS} unlock --pin prompt --admin {}",
        mesh.path("a/admin.sock").display()
    ));
    operator.wait("User PIN for token");
    operator.type_line(pin.trim());
    operator.wait("is unlocked and signs");
    assert!(operator.wait_exit().success());
    let status = eventually("ready again", || {
        let status = a.status();
        (status["state"] == "ready").then_some(status)
    });
    assert!(status["processes"][1]["pid"].is_u64());
    assert_eq!(restarts(&a), before, "nothing was started in vain");
    // A handshake of ours, signed by the new keeper.
    assert_eq!(
        a.ping("b")["connection"]["signed_by_pid"],
        status["processes"][1]["pid"]
    );
    for terminal in [&terminal, &operator] {
        assert!(!terminal.shown().contains(pin.trim()), "the PIN was echoed");
    }
    assert!(a.admin(&["drain"]).status.success());
    assert!(terminal.wait_exit().success());
}

#[test]
fn a_node_that_is_told_to_stop_while_its_pin_is_typed_leaves_the_terminal_as_it_was() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "\"file:token/pin\"", "\"prompt\"");
    let (config, told) = (mesh.path("a/node.toml"), mesh.path("a/told"));
    let log = mesh.path("a/log");
    let script = format!(
        "{FASTNESS} run --config {} 2>>{} & until [ -e {} ]; do sleep 0.1; done; kill $!; wait; stty -a; echo all over",
        config.display(),
        log.display(),
        told.display()
    );
    let terminal = Terminal::start(&format!("sh -c '{script}'"));
    terminal.wait("User PIN for token");
    mesh.write("a/told", "");
    terminal.wait("all over");
    let shown = terminal.shown();
    assert!(
        shown.contains(" echo ") && !shown.contains("-echo "),
        "{shown}"
    );
}

#[test]
fn a_pin_that_came_through_a_pipe_is_not_looked_for_there_again() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "\"file:token/pin\"", "\"fd:5\"");
    let file = mesh.path("a/token/pin");
    let from_pipe = format!("exec 5< <(cat {}); exec \"$@\"", file.display());
    let through = ["bash", "-c", &from_pipe, "bash"].map(str::to_owned).into();
    let options = Options {
        through,
        ..Options::default()
    };
    let a = mesh.start_with("a", options);
    lose_keeper(&a);
    let before = restarts(&a);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(restarts(&a), before, "it waits, and does not try in vain");
    is_refused(&a, &[], 4, "cannot be taken from its source again");
    let source = mesh.tokens("a").pin_source();
    assert!(a.admin(&["unlock", "--pin", &source]).status.success());
    eventually("ready again", || {
        (a.status()["state"] == "ready").then_some(())
    });
}

#[test]
fn a_pin_whose_file_is_gone_can_be_brought_by_unlock_and_is_found_when_it_is_back() {
    let mesh = Mesh::new();
    let a = mesh.start("a");
    let (there, away) = (mesh.path("a/token/pin"), mesh.path("a/pin-away"));
    let lose = || {
        std::fs::rename(&there, &away).unwrap();
        signal(a.pid("keeper"), Signal::KILL);
        eventually("the status names the PIN's source", || {
            let status = a.status();
            let reason = status["reason"].as_str()?;
            (reason.contains("token/…") && a.pid("keeper") == 0).then_some(())
        });
    };
    let ready = || {
        eventually("ready again", || {
            (a.status()["state"] == "ready").then_some(())
        });
    };
    lose();
    let source = format!("file:{}", away.display());
    let output = a.admin(&["unlock", "--pin", &source]);
    assert!(output.status.success(), "{}", said(&output));
    ready();
    std::fs::rename(&away, &there).unwrap();
    lose();
    std::fs::rename(&away, &there).unwrap();
    ready();
}

#[test]
fn an_unlock_while_the_keeper_logs_in_is_not_a_second_login_beside_it() {
    let rehearsal = Rehearsal::new();
    let a = rehearsal.mesh.start("a");
    let logins = || rehearsal.fault.counts().calls("C_Login");
    rehearsal.fault.order("set C_Login delay=700ms");
    let source = rehearsal.mesh.tokens("a").pin_source();
    for arguments in [&[][..], &["--pin", &source]] {
        let before = logins();
        signal(a.pid("keeper"), Signal::KILL);
        rehearsal.fault.await_count("C_Login", "calls", before + 1);
        is_refused(&a, arguments, 4, "its keeper is logging in");
        eventually("ready again", || is_ready(&a));
        assert_eq!(logins(), before + 1);
    }
}

/// The keeper is gone, its PIN is not tried by itself, and the status says what an operator can do.
#[track_caller]
fn is_latched(a: &Node, why: &str) {
    eventually(&format!("latched: {why}"), || {
        let status = a.status();
        let reason = status["reason"].as_str()?;
        (reason.contains("`fastness unlock`") && reason.contains(why) && a.pid("keeper") == 0)
            .then_some(())
    });
}

#[test]
fn a_source_whose_pin_was_refused_is_tried_again_by_nobody_but_an_operator() {
    let rehearsal = Rehearsal::new();
    let (mesh, fault) = (&rehearsal.mesh, &rehearsal.fault);
    let a = mesh.start("a");
    let logins = || fault.counts().calls("C_Login");
    let pin = mesh.read("a/token/pin");
    let source = |name: &str, pin: &str| format!("file:{}", mesh.write(name, pin).display());
    let (right, blank) = (source("a/right", &pin), source("a/blank", "\n"));
    let kill = || signal(a.pid("keeper"), Signal::KILL);

    mesh.write("a/token/pin", "this is not it");
    let before = logins();
    kill();
    is_latched(&a, "");
    assert_eq!(logins(), before + 1);

    // No verdict on an operator's PIN changes that.
    is_refused(&a, &["--pin", &blank], 4, "the PIN is empty");
    is_latched(&a, "the PIN is empty");
    fault.order("abort C_Login times=1");
    let output = a.admin(&["unlock", "--pin", &right]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    is_latched(&a, "");

    // Nor does the right one.
    let output = a.admin(&["unlock", "--pin", &right]);
    assert!(output.status.success(), "{}", said(&output));
    kill();
    is_latched(&a, "or bring one with `--pin`");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(logins(), before + 3);

    // But the source does, once somebody says that it is mended.
    mesh.write("a/token/pin", &pin);
    assert!(a.admin(&["unlock"]).status.success());
    let keeper = a.pid("keeper");
    kill();
    a.wait_replaced("keeper", keeper);
}

#[test]
fn a_node_that_is_stopping_unlocks_nothing() {
    let rehearsal = Rehearsal::new();
    let a = rehearsal.mesh.start("a");
    let logins = || rehearsal.fault.counts().calls("C_Login");
    rehearsal.fault.order("fail C_Login CKR_PIN_INCORRECT");
    signal(a.pid("keeper"), Signal::KILL);
    is_latched(&a, "");
    rehearsal.fault.clear();
    let before = logins();
    // Stopped, it does not end until it is killed.
    signal(a.pid("node"), Signal::STOP);
    signal(a.supervisor(), Signal::TERM);
    a.wait_log("draining");
    is_refused(&a, &[], 4, "the node is stopping");
    assert_eq!(logins(), before);
}

#[test]
fn a_pin_in_a_systemd_credential_starts_a_node_and_its_next_keeper() {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "file:token/pin", "credential:user-pin");
    // As systemd makes it: readable by the group, which may be the unit's.
    std::fs::create_dir(mesh.path("credentials")).expect("a folder");
    let credential = mesh.write("credentials/user-pin", &mesh.tokens("a").pin());
    let mode = |mode| {
        std::fs::set_permissions(&credential, Permissions::from_mode(mode)).expect("its mode");
    };
    mode(0o440);
    let folder = mesh.path("credentials").display().to_string();
    let check = || {
        let mut command = Command::new(FASTNESS);
        command
            .args(["check", "--config"])
            .arg(mesh.path("a/node.toml"))
            .env("CREDENTIALS_DIRECTORY", &folder);
        command.output().expect("the binary runs")
    };
    assert!(check().status.success(), "{}", said(&check()));
    let a = mesh.start_with(
        "a",
        Options {
            environment: vec![("CREDENTIALS_DIRECTORY".to_owned(), folder.clone())],
            ..Options::default()
        },
    );
    let b = mesh.start("b");
    b.ping("a");
    let old = a.pid("keeper");
    signal(old, Signal::KILL);
    a.wait_replaced("keeper", old);
    a.ping("b");
    drop(a);

    mode(0o444);
    let output = check();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("0444"), "{}", said(&output));
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("CREDENTIALS_DIRECTORY is not set"),
        "{}",
        said(&output)
    );
}
