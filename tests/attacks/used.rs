//! Which rules of the profiles a run of the mesh uses: all of it that a node does, and every way in which
//! a role ends. A rule that nothing used must say why it is there (`untried`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::atomic::Ordering;

use rustix::process::Signal;

use super::rules::{Rule, shown};
use super::{attempts_of, attested_pid, with_a_name, with_application, with_unknown_module};
use crate::support::nameserver::NameServer;
use crate::support::{
    FASTNESS, Judge, Mesh, Node, Options, PATIENCE, eventually, in_softhsm, json, node, python, run,
};

/// One kind of call, as the judge saw it.
struct Call {
    pid: u64,
    filters: u64,
    name: String,
    arguments: [u64; 6],
    count: u64,
}

/// Which processes played which role.
type Roles = BTreeMap<u64, &'static str>;

#[test]
fn every_rule_is_used_or_says_why_not() {
    crate::support::as_root("only root sees the system calls of others");
    // What supervisor and node need is measured with SoftHSM.
    let measured: &[_] = match in_softhsm() {
        true => &["supervisor", "keeper", "node"],
        false => &["keeper"],
    };
    measure(with_application, measured, work);
}

#[test]
fn every_rule_for_the_resolver_is_used_or_says_why_not() {
    crate::support::as_root("only root sees the system calls of others");
    measure(with_a_name, &["resolver"], ask);
}

#[test]
fn every_rule_for_an_unknown_modules_keeper_is_used_or_says_why_not() {
    crate::support::as_root("only root sees the system calls of others");
    if in_softhsm() {
        measure(with_unknown_module, &["keeper"], work);
    }
}

/// Whether the rules of the roles `measured` are used in meshes that `make` makes.
fn measure(make: fn() -> Mesh, measured: &[&str], work: fn(&Mesh, &std::path::Path, &mut Roles)) {
    let mesh = make();
    mesh.name_users("daemon", "bin");
    let mut rules = shown(&mesh);
    rules.retain(|role, _| measured.contains(&role.as_str()));
    let wrapper = mesh.path("seen");
    let mut judge = Judge::start(python("calls.py").arg(&wrapper).arg(FASTNESS));
    assert_eq!(judge.hear(), "ready");
    let mut roles = Roles::new();
    work(&mesh, &wrapper, &mut roles);
    if !in_softhsm() {
        probe_beside_a_writer(&wrapper, &mut roles);
    }
    for role in rules.keys() {
        for end in ["panic", "segfault", "out of memory"] {
            let mesh = make();
            let (_, log, supervisor) = attempts_of(&mesh, role, &[end], Some(wrapper.clone()));
            note(&log, supervisor, &mut roles);
        }
    }
    let mut matter: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for rule in rules.values().flatten() {
        let indices = rule.conditions.iter().map(|condition| condition.index);
        matter.entry(&rule.call).or_default().extend(indices);
    }
    judge.tell(&serde_json::to_string(&matter).expect("JSON"));
    let said = json(&judge.hear());
    judge.end();
    assert_eq!(said["lost"], 0, "the kernel's buffer overflowed");
    let calls: Vec<Call> = said["calls"]
        .as_array()
        .expect("a list")
        .iter()
        .map(call)
        .collect();
    let mut faults = Vec::new();
    for (role, rules) in &rules {
        report(role, rules, &used(role, rules, &calls, &roles), &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn call(seen: &serde_json::Value) -> Call {
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let mut arguments = [0; 6];
    for (argument, seen) in arguments
        .iter_mut()
        .zip(seen["arguments"].as_array().expect("a list"))
    {
        *argument = number(seen);
    }
    Call {
        pid: number(&seen["pid"]),
        filters: number(&seen["filters"]),
        name: seen["call"].as_str().expect("a name").to_owned(),
        arguments,
        count: number(&seen["count"]),
    }
}

/// Everything a node does, on node `a` behind `wrapper`.
fn work(mesh: &Mesh, wrapper: &std::path::Path, roles: &mut Roles) {
    // Over IPv6 as well: `b` is dialled there, and dials `a` over IPv4.
    mesh.edit(
        "b/node.toml",
        "listen = [",
        &format!("listen = [\"[::1]:{}\", ", mesh.ports["b"]),
    );
    mesh.edit(
        "a/peers.toml",
        "addresses = [",
        &format!("addresses = [\"[::1]:{}\", ", mesh.ports["b"]),
    );
    let has_application = mesh.read("a/node.toml").contains("[application]");
    if has_application {
        let section = "[application]\nmode = \"tcp\"\nupstream = \"unix:app.sock\"\n";
        mesh.section(
            "b",
            &format!("{section}egress = {{ a = \"unix:a.sock\" }}\n"),
        );
    }
    let b = mesh.start("b");
    let a = Node::spawn(
        "a",
        &mesh.path("a"),
        mesh.ports["a"],
        Options {
            binary: Some(wrapper.to_owned()),
            ..Options::default()
        },
    );
    a.wait_ready();
    for (from, to) in [(&a, "b"), (&b, "a")] {
        from.ping(to);
        from.ask(&["ping", to, "--transfer", "8MiB"])
            .expect("it moves");
    }
    if has_application {
        through(mesh, "b/a.sock", "a/app.sock", "bin");
        through(mesh, "a/b.sock", "b/app.sock", "root");
    }
    a.ask(&["reload"]).expect("it reloads");
    a.ask(&["metrics"]).expect("it counts");
    // SoftHSM reads its objects again when another program has written one.
    mesh.tokens("a").keygen("another", "server", "p256");
    for role in ["node", "keeper"] {
        let pid = a.pid(role);
        node::signal(pid, Signal::STOP);
        std::thread::sleep(std::time::Duration::from_millis(300));
        node::signal(pid, Signal::CONT);
    }
    for role in ["node", "keeper"] {
        let old = b.pid(role);
        node::signal(old, Signal::KILL);
        b.wait_replaced(role, old);
        let old = a.pid(role);
        node::signal(old, Signal::KILL);
        a.wait_replaced(role, old);
        b.ping("a");
        a.ping("b");
    }
    // A hung one is ended.
    let old = a.pid("keeper");
    node::signal(old, Signal::STOP);
    a.wait_replaced("keeper", old);
    let supervisor = a.supervisor();
    let second = format!("cannot connect to 127.0.0.1:{}", mesh.ports["b"]);
    drop(b);
    eventually("a tries the other address too", || {
        let _ = a.ask(&["ping", "b"]);
        a.log().contains(&second).then_some(())
    });
    a.ask(&["drain"]).expect("it drains");
    eventually("a has stopped", || {
        a.log().contains("stopped").then_some(())
    });
    note(&a.log(), supervisor, roles);
}

/// Everything a resolver does, on node `a` behind `wrapper`.
fn ask(mesh: &Mesh, wrapper: &std::path::Path, roles: &mut Roles) {
    let (server, options) = NameServer::start(mesh);
    let peers = mesh.read("a/peers.toml");
    let names = ["node-b.test", "long.test", "many.test", "localhost"];
    let port = mesh.ports["b"];
    let names: Vec<_> = names
        .iter()
        .map(|name| format!("\"{name}:{port}\""))
        .collect();
    let one = format!("\"localhost:{port}\"");
    mesh.write("a/peers.toml", &peers.replace(&one, &names.join(", ")));
    let binary = Some(wrapper.to_owned());
    let a = mesh.start_with("a", Options { binary, ..options });
    a.ask(&["reload"]).expect("it reloads");
    assert!(!a.log().contains("does not resolve"), "{}", a.log());
    // One that waits is stopped and goes on.
    server.silent.store(true, Ordering::Relaxed);
    let before = a.log_length();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| a.ask(&["reload"]));
        let line = a.wait_log_after(before, "role=\"resolver\"");
        let pid = attested_pid(&line, "resolver").parse().expect("a number");
        // Attested, it has not asked yet; the second time it waits for an answer.
        for _ in 0..2 {
            node::signal(pid, Signal::STOP);
            std::thread::sleep(std::time::Duration::from_millis(300));
            node::signal(pid, Signal::CONT);
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        reload.join().expect("no panic").expect("it reloads");
    });
    note(&a.log(), a.supervisor(), roles);
}

/// Bytes from the application before `door` to the one that listens at `upstream` for the user `node`.
fn through(mesh: &Mesh, door: &str, upstream: &str, node: &str) {
    let socket = mesh.path(upstream);
    let listener = UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    run(Command::new("chown").arg(node).arg(&socket));
    run(Command::new("chmod").arg("700").arg(&socket));
    let mut door = UnixStream::connect(mesh.path(door)).expect("a door");
    door.write_all(b"through").expect("it is taken");
    let (mut application, _) = eventually("the application is called", || listener.accept().ok());
    application.set_nonblocking(false).expect("a socket");
    application
        .set_read_timeout(Some(PATIENCE))
        .expect("not zero");
    let mut heard = [0; 7];
    application.read_exact(&mut heard).expect("it comes");
    assert_eq!(&heard, b"through");
}

/// Node `a` behind `wrapper`, whose probes meet another program that writes into its kryoptic token.
fn probe_beside_a_writer(wrapper: &std::path::Path, roles: &mut Roles) {
    let mesh = Mesh::new();
    mesh.edit("a/node.toml", "pin = ", "probe_ms = 100\npin = ");
    let options = Options {
        binary: Some(wrapper.to_owned()),
        ..Options::default()
    };
    let a = mesh.start_with("a", options);
    let database = mesh.tokens("a").folder.join("token.sql");
    run(python("writer.py").arg(database).arg("slow"));
    note(&a.log(), a.supervisor(), roles);
}

/// The processes that a log says were attested.
fn note(log: &str, supervisor: u32, roles: &mut Roles) {
    roles.insert(supervisor.into(), "supervisor");
    let attested = |role: &str| {
        let marks = format!("role=\"{role}\"");
        let lines = log.lines();
        let found = lines.filter(|line| line.contains(" attested ") && line.contains(&marks));
        let pid = |line: &str| {
            let (_, pid) = line.split_once(" pid=").expect("a pid");
            let pid = pid.split(' ').next().expect("a pid");
            pid.parse::<u64>().expect("a number")
        };
        found.map(pid).collect::<Vec<_>>()
    };
    for role in ["resolver", "keeper", "node"] {
        roles.extend(attested(role).into_iter().map(|pid| (pid, role)));
    }
    // A resolver that attacks does so before the others are started.
    let began = log.contains("READY");
    let all = |wanted: &[&str]| wanted.iter().all(|role| !attested(role).is_empty());
    assert!(
        all(&["resolver"]) || (began && all(&["keeper", "node"])),
        "{log}"
    );
}

/// How often each rule of `role` let its call through.
fn used(role: &str, rules: &[Rule], calls: &[Call], roles: &Roles) -> Vec<u64> {
    let mut used = vec![0; rules.len()];
    for call in calls {
        // Everything below the supervisor is under its filter as well, from the start: what is traced
        // here and is not a role is a child of the supervisor that has not become one yet.
        let is_under = match (role, roles.get(&call.pid)) {
            ("supervisor", Some(&"supervisor")) => call.filters > 0,
            ("supervisor", _) => true,
            (role, Some(found)) => *found == role && call.filters > 0,
            (_, None) => false,
        };
        if !is_under {
            continue;
        }
        let mut taken = false;
        for (rule, used) in rules.iter().zip(&mut used) {
            if rule.takes(&call.name, &call.arguments) {
                taken = true;
                *used += call.count;
            }
        }
        assert!(
            taken,
            "{role} {} {:x?} was not killed",
            call.name, call.arguments
        );
    }
    used
}

/// Prints what was used, and notes what was not and does not say why.
fn report(role: &str, rules: &[Rule], used: &[u64], faults: &mut Vec<String>) {
    let mut unused = 0;
    println!("\n{role}: {} rules", rules.len());
    for (rule, used) in rules.iter().zip(used) {
        let call = match rule.conditions.is_empty() {
            true => rule.call.clone(),
            false => format!("{} (conditions)", rule.call),
        };
        match (used, &rule.untried) {
            (1.., _) => println!("  {used:>9}  {call}"),
            (0, Some(why)) => {
                unused += 1;
                println!("     unused  {call}: {why}");
            }
            // The kernel answers before its tracepoint sees the call.
            (0, None) if rule.answer.is_some() => println!("   answered  {call}"),
            (0, None) => {
                unused += 1;
                println!("     UNUSED  {call}");
                faults.push(format!("{role}: nothing used {call}: say in policies/seccomp/evidence.json why it is there (\"untried\") or take it out"));
            }
        }
    }
    println!("{role}: {unused} rules unused");
}
