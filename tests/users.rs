//! Each role a user of its own, where somebody with the right to starts the node; the roles then read
//! nothing of each other, and the log says so when they have not.
//!
//! The users are of every Debian system: `daemon` for keepers, `bin` for nodes, `sys` for a supervisor.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::node::{self, Node};
use crate::support::{FASTNESS, Mesh, Options, as_root, json, root, run, said};

const KEEPER: &str = "daemon";
const NODE: &str = "bin";
const SUPERVISOR: &str = "sys";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn uid(user: &str) -> u64 {
    run(Command::new("id").args(["-u", user]))
        .trim()
        .parse()
        .expect("a number")
}

/// A mesh whose node `a` names users; the token is the keeper's.
fn mesh_with_users() -> Mesh {
    let mesh = Mesh::new();
    mesh.name_users(KEEPER, NODE);
    mesh
}

const WHY: &str = "only root starts roles as other users";

#[test]
fn without_the_right_it_is_said() {
    let mesh = mesh_with_users();
    let mut check = Command::new("setpriv");
    if is_root() {
        check.args(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    let refused = check
        .args(["--no-new-privs", "--", FASTNESS, "check", "--config"])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("setpriv is part of util-linux");
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(
        said(&refused).contains("may not start roles as other users"),
        "{}",
        said(&refused)
    );
    let plain = Mesh::new();
    plain.start("a").wait_log("all roles run as one user");
}

/// The socket's mode keeps others out; where somebody has changed it, the user at the other end does.
#[test]
fn only_root_and_the_supervisors_user_administrate() {
    as_root(WHY);
    let mesh = Mesh::new();
    let a = mesh.start("a");
    for (path, mode) in [
        ("", "0711"),
        ("a", "0711"),
        ("a/admin.sock", "0666"),
        ("a/admin.sock.unlock", "0666"),
    ] {
        run(Command::new("chmod").arg(mode).arg(mesh.path(path)));
    }
    let ask = |user: &str, command: &str| {
        Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups", "--"])
            .args([FASTNESS, command, "--admin"])
            .arg(mesh.path("a/admin.sock"))
            .output()
            .expect("setpriv is part of util-linux")
    };
    for command in ["status", "drain", "unlock"] {
        let before = a.log_length();
        let refused = ask(NODE, command);
        assert!(!refused.status.success(), "{}", said(&refused));
        a.wait_log_after(before, "refused: not root, not our user");
    }
    let passed = ask("root", "status");
    assert!(passed.status.success(), "{}", said(&passed));
}

fn uids(node: &Node) -> Vec<(String, u64)> {
    let status = node.status();
    let all = status["attestations"].as_array().expect("a list");
    all.iter()
        .map(|one| {
            assert_eq!(one["mismatches"], serde_json::json!([]), "{one}");
            let role = one["role"].as_str().expect("text");
            (role.to_owned(), one["uid"].as_u64().expect("a number"))
        })
        .collect()
}

/// What a user, without any right, reads of a process.
fn look(user: &str, pid: u32) -> String {
    let process = format!("/proc/{pid}");
    let script = format!(
        "for file in mem environ maps smaps auxv stack fd/0 exe cwd root; do \
           head -c1 {process}/$file >/dev/null 2>&1 && echo read $file; \
           readlink {process}/$file; done; \
         for folder in fd map_files; do ls {process}/$folder 2>/dev/null; done; \
         kill -0 {pid} 2>/dev/null && echo signalled; true"
    );
    run(Command::new("setpriv")
        .args(["--reuid", user, "--regid", user, "--clear-groups"])
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
        .args(["--", "sh", "-c", &script]))
}

fn assert_apart(a: &Node, supervisor: &str) {
    let expected = [
        ("supervisor", supervisor),
        ("keeper", KEEPER),
        ("node", NODE),
    ];
    let wanted: Vec<_> = expected
        .iter()
        .map(|(role, user)| ((*role).to_owned(), uid(user)))
        .collect();
    assert_eq!(uids(a), wanted);
    for (from, user) in expected {
        for (role, _) in expected {
            if role != from {
                let mut seen = look(user, a.pid(role));
                if from == "supervisor" && user == "root" {
                    // Even without a right, root sees the numbers of descriptors: the folder is root's.
                    seen.retain(|c| !c.is_ascii_digit() && c != '\n');
                }
                assert_eq!(seen, "", "{from} of {role}");
            }
        }
    }
}

#[test]
fn each_role_has_its_user_and_reads_nothing_of_the_others() {
    as_root(WHY);
    let mesh = mesh_with_users();
    let (a, b) = mesh.start_both();
    assert_apart(&a, "root");
    // The positive control: what is not sealed is read by its own user.
    let mut open = Command::new("setpriv")
        .args(["--reuid", NODE, "--regid", NODE, "--clear-groups"])
        .args(["--pdeathsig", "KILL", "sleep", "600"])
        .spawn()
        .expect("it starts");
    crate::support::eventually("an open process is read", || {
        let seen = look(NODE, open.id());
        (seen.contains("read environ") && seen.contains("signalled")).then_some(())
    });
    let _ = open.kill();
    let _ = open.wait();
    // Roles are started again as who they were, and hung ones are ended, by a supervisor that is
    // neither of them.
    for role in ["keeper", "node"] {
        let old = a.pid(role);
        node::signal(old, Signal::STOP);
        node::signal(old, Signal::KILL);
        a.wait_replaced(role, old);
    }
    assert_apart(&a, "root");
    b.ping("a");
    a.ping("b");
    a.ask(&["reload"]).expect("it reloads");
    let drained = a.pid("node");
    a.ask(&["drain"]).expect("it drains");
    crate::support::eventually("the node ends", || (!node::is_alive(drained)).then_some(()));
    assert!(
        !a.log().contains("all roles run as one user"),
        "{}",
        a.log()
    );
    assert!(!a.log().contains("SIGSYS"), "{}", a.log());
}

/// Processes that would be stopped for ever if the test fails.
struct Stopped([u32; 2]);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.into_iter().for_each(node::kill_if_there);
    }
}

#[test]
fn roles_of_other_users_end_with_their_supervisor() {
    as_root(WHY);
    let mesh = mesh_with_users();
    let mut a = mesh.start("a");
    let roles = ["keeper", "node"].map(|role| a.pid(role));
    let _stopped = Stopped(roles);
    // What is stopped cannot end by itself when its channel does.
    for pid in roles {
        node::signal(pid, Signal::STOP);
    }
    node::signal(a.supervisor(), Signal::KILL);
    a.wait_exit();
    for pid in roles {
        crate::support::eventually("it ends", || (!node::is_alive(pid)).then_some(()));
    }
}

/// As `hsm-setup/systemd/users.conf` has it.
#[test]
fn a_supervisor_that_is_not_root_needs_three_rights() {
    as_root(WHY);
    let mesh = mesh_with_users();
    let own = |path: &str| {
        run(Command::new("chown")
            .args(["-R", SUPERVISOR])
            .arg(mesh.path(path)))
    };
    own("a");
    own("ca");
    run(Command::new("chown")
        .args(["-R", KEEPER])
        .arg(mesh.path("a/token")));
    own("a/token/pin");
    in_a_closed_folder(&mesh);
    let binary = as_supervisor(&mesh, "+setuid,+setgid,+kill,+setpcap");
    let a = Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            binary: Some(binary),
            ..Options::default()
        },
    );
    a.wait_ready();
    assert_apart(&a, SUPERVISOR);
    let old = a.pid("keeper");
    node::signal(old, Signal::KILL);
    a.wait_replaced("keeper", old);
    assert_apart(&a, SUPERVISOR);
    drop(a);
    // Without one of them it does not start.
    for rights in ["+setuid,+setgid", "+setuid,+kill", "+setgid,+kill"] {
        let output = Command::new(as_supervisor(&mesh, rights))
            .args(["check", "--config"])
            .arg(mesh.path("a/node.toml"))
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        assert!(
            said(&output).contains("may not start roles as other users"),
            "{rights}: {}",
            said(&output)
        );
    }
}

/// A copy of `fastness` in a folder that no other user may enter.
fn in_a_closed_folder(mesh: &Mesh) {
    let closed = mesh.path("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("its mode");
    // Another process writes it: what a child of another test inherits open for writing cannot be run.
    run(Command::new("cp").arg(FASTNESS).arg(&closed));
}

/// A program that runs that copy as a user with only these rights.
fn as_supervisor(mesh: &Mesh, rights: &str) -> PathBuf {
    let path = mesh.path("as-supervisor");
    let fastness = mesh.path("closed/fastness");
    let script = format!(
        "#!/bin/sh\nexec setpriv --reuid {SUPERVISOR} --regid {SUPERVISOR} --groups 4 \
         --inh-caps=-all,{rights} --ambient-caps=-all,{rights} --bounding-set=-all,{rights} \
         --pdeathsig KILL -- {} \"$@\"\n",
        fastness.display()
    );
    mesh.write("as-supervisor", &script);
    run(Command::new("chmod").arg("0755").arg(&path));
    path
}

#[test]
fn users_that_keep_nothing_apart_are_refused() {
    let refused = |edit: &dyn Fn(String) -> String, words: &[&str]| {
        let mesh = mesh_with_users();
        mesh.write("a/node.toml", &edit(mesh.read("a/node.toml")));
        let output = mesh.check("a");
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        for word in words {
            assert!(
                said(&output).contains(word),
                "no {word:?}: {}",
                said(&output)
            );
        }
    };
    let node = format!("node_user = {NODE:?}");
    let keeper = format!("user = {KEEPER:?}");
    refused(
        &|text| text.replace(&node, "node_user = \"nobody-of-this-name\""),
        &["sandbox.node_user", "no user is called", "useradd"],
    );
    refused(
        &|text| text.replace(&node, "node_user = \"root\""),
        &["sandbox.node_user"],
    );
    refused(
        &|text| text.replace(&node, &format!("node_user = {KEEPER:?}")),
        &["sandbox.node_user", "is a keeper's user"],
    );
    refused(
        &|text| text.replace(&node, ""),
        &["sandbox.node_user", "is missing"],
    );
    refused(
        &|text| text.replace(&keeper, ""),
        &["token[0].user", "is missing"],
    );
    refused(
        &|text| text.replace(&node, &format!("{node}\nresolver_user = {KEEPER:?}")),
        &["sandbox.resolver_user", "is a keeper's user"],
    );
    refused(
        &|text| {
            text.replace(&node, "resolver_user = \"mail\"")
                .replace(&keeper, "")
        },
        &[
            "sandbox.resolver_user",
            "no other role has a user of its own",
        ],
    );
}

#[test]
fn a_resolver_has_the_nodes_user_or_its_own() {
    as_root(WHY);
    for own in [None, Some("mail")] {
        let mesh = mesh_with_users();
        mesh.edit("a/peers.toml", "127.0.0.1:", "localhost:");
        if let Some(own) = own {
            let line = format!("node_user = {NODE:?}\n");
            mesh.edit(
                "a/node.toml",
                &line,
                &format!("{line}resolver_user = {own:?}\n"),
            );
        }
        let (a, _b) = mesh.start_both();
        a.ping("b");
        let line = a.wait_log("role=\"resolver\"");
        let wanted = format!(" uid={} ", uid(own.unwrap_or(NODE)));
        assert!(line.contains(&wanted), "{line}");
    }
}

#[test]
fn an_auditor_sees_the_users() {
    let mesh = mesh_with_users();
    let show = |path: &Path| {
        let shown = run(Command::new(FASTNESS)
            .args(["sandbox", "show", "--format", "json", "--config"])
            .arg(path));
        json(&shown)
    };
    let shown = show(&mesh.path("a/node.toml"));
    let uid_of = |role: &str| {
        let roles = shown["roles"].as_array().expect("a list");
        let found = roles.iter().find(|one| one["role"] == role);
        found.expect("it is shown")["uid"].clone()
    };
    assert_eq!(uid_of("keeper"), uid(KEEPER));
    assert_eq!(uid_of("node"), uid(NODE));
    assert_eq!(uid_of("supervisor"), serde_json::Value::Null);
    // Only with users may the supervisor change its own, and only to those.
    let allowed = |shown: &serde_json::Value| {
        let calls = shown["roles"][0]["allowed"].as_array().expect("a list");
        calls.iter().any(|call| call == "setuid")
    };
    assert!(allowed(&shown));
    assert!(!allowed(&show(&Mesh::new().path("a/node.toml"))));
}

/// Roles are not dumpable, so a /proc that shows a user's own processes alone hides them from their
/// supervisor (proc(5), `hidepid`): it says so and starts nothing that it cannot see.
#[test]
fn a_proc_that_hides_the_roles_is_named() {
    let unit = std::fs::read_to_string(root().join("hsm-setup/systemd/fastness.service"));
    assert!(unit.expect("the unit").contains("\nProtectProc=default\n"));
    as_root(WHY);
    let mesh = Mesh::new();
    run(Command::new("chown")
        .args(["-R", SUPERVISOR])
        .arg(mesh.path("")));
    // Nothing is hidden from root's group.
    let script = format!(
        "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid {SUPERVISOR} \
         --regid {SUPERVISOR} --clear-groups --inh-caps=-all --bounding-set=-all {FASTNESS} \"$@\""
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh", "check", "--config"])
        .arg(mesh.path("a/node.toml"))
        .output()
        .expect("unshare is part of util-linux");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for word in [
        "the keeper is not confined as declared",
        "ProtectProc=default",
    ] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}
