//! What `fastness sandbox show` says is what the kernel holds; an administrator's own profile takes the
//! place of one in the binary only when nobody else could have written it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::files::only_ours;
use crate::support::{
    FASTNESS, Judge, Mesh, Node, Options, as_root, json, python, root, run, said, show,
};

fn of<'a>(shown: &'a Value, role: &str) -> &'a Value {
    let roles = shown["roles"].as_array().expect("a list");
    let found = roles.iter().find(|one| one["role"] == role);
    found.unwrap_or_else(|| panic!("no {role} in {shown}"))
}

fn profile(name: &str) -> String {
    let arch = std::env::consts::ARCH;
    let path = root().join(format!("policies/seccomp/{arch}/{name}.json"));
    std::fs::read_to_string(path).expect("a profile")
}

#[test]
fn what_is_shown_is_what_the_kernel_holds() {
    let mesh = Mesh::new();
    let before = show(&mesh);
    assert_eq!(before["running"], false);
    let a = mesh.start("a");
    let shown = show(&mesh);
    assert_eq!(shown["running"], true);
    for role in ["supervisor", "keeper", "node"] {
        let (one, before) = (of(&shown, role), of(&before, role));
        for key in ["role", "allowed", "argument_checked", "landlock", "sha256"] {
            assert_eq!(one[key], before[key], "{role} {key}");
            assert!(!one[key].is_null(), "{role} {key}");
        }
        assert_eq!(before.get("pid"), None);
        assert_eq!(one["pid"], a.pid(role), "{one}");
        assert_eq!(one["uid"], rustix::process::geteuid().as_raw(), "{one}");
        assert_eq!(one["mismatches"], serde_json::json!([]), "{one}");
        let name = one["profile"].as_str().expect("a name");
        assert_eq!(one["rules"].as_array().map(Vec::is_empty), Some(false));
        assert_ne!(one["run"].as_str().map(str::len), Some(0), "{one}");
        assert_eq!(one["sha256"], sha256_of(&profile(name)), "{role}");
        // The supervisor's is on all that it starts.
        let filters = |role| of(&shown, role)["filters"].as_u64().expect("a number");
        let above = match role {
            "supervisor" => 0,
            _ => filters("supervisor"),
        };
        assert!(filters(role) > above, "{one}");
        // Only root may read them from the kernel; others see the digest and the number above.
        if rustix::process::geteuid().is_root() {
            assert_held(role, a.pid(role), one);
        }
    }
    assert_eq!(
        of(&shown, "supervisor")["landlock"]["bind_tcp"],
        serde_json::json!([])
    );
    assert_eq!(
        of(&shown, "node")["landlock"]["read"],
        serde_json::json!([])
    );
}

/// The judge follows every path of the process's newest filter.
fn assert_held(role: &str, pid: u32, shown: &Value) {
    let held = json(&run(python("filter.py").arg(pid.to_string())));
    for key in ["allowed", "argument_checked"] {
        assert_eq!(held[key], shown[key], "{role} {key}");
    }
    let errors = [("EPERM", 1), ("EACCES", 13), ("ENOSYS", 38)];
    let errors: BTreeMap<&str, u64> = errors.into_iter().collect();
    let answered = shown["answered"].as_object().expect("a map");
    let expected: BTreeMap<_, _> = answered
        .iter()
        .map(|(call, error)| {
            (
                call.clone(),
                Value::from(errors[error.as_str().expect("text")]),
            )
        })
        .collect();
    let held: BTreeMap<_, _> = held["answered"]
        .as_object()
        .expect("a map")
        .clone()
        .into_iter()
        .collect();
    assert_eq!(held, expected, "{role}");
}

fn sha256_of(text: &str) -> String {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("it is written");
    let said = run(Command::new("sha256sum").arg(file.path()));
    said.split(' ').next().expect("a digest").to_owned()
}

// --- the administrator's own ------------------------------------------------------------------------

/// Writes a profile beside the configuration and names it there.
fn with_own(mesh: &Mesh, key: &str, text: &str) -> PathBuf {
    let path = mesh.write("a/own.json", text);
    let line = format!("{key} = \"own.json\"\n");
    match key {
        "profile" => mesh.edit("a/node.toml", "pin = ", &format!("{line}pin = ")),
        _ => {
            let toml = mesh.read("a/node.toml");
            mesh.write("a/node.toml", &format!("{toml}\n[sandbox]\n{line}"));
        }
    }
    path
}

/// The same profile in other words, so that its digest is another.
fn reworded(name: &str) -> String {
    profile(name).replacen("\"comment\": \"", "\"comment\": \"ours: ", 1)
}

fn keeper_profile(mesh: &Mesh) -> String {
    of(&show(mesh), "keeper")["profile"]
        .as_str()
        .expect("a name")
        .to_owned()
}

#[test]
fn own_profiles_take_the_place_of_those_in_the_binary_and_say_so() {
    for role in ["supervisor", "keeper", "node"] {
        let mesh = Mesh::new();
        let (key, name) = match role {
            "keeper" => ("profile".to_owned(), keeper_profile(&mesh)),
            _ => (format!("{role}_profile"), role.to_owned()),
        };
        let text = reworded(&name);
        let path = with_own(&mesh, &key, &text).display().to_string();
        let sha256 = sha256_of(&text);
        let (a, b) = mesh.start_both();
        a.ping("b");
        b.ping("a");
        let log = a.log();
        let lines = |word: &str| -> Vec<&str> {
            log.lines()
                .filter(|line| line.contains(word) && line.contains(&sha256))
                .collect()
        };
        assert_eq!(lines("not the reviewed one").len(), 1, "{log}");
        let attested = lines(" attested ");
        assert!(!attested.is_empty(), "{log}");
        for line in attested {
            assert!(line.contains(&format!("role=\"{role}\"")), "{line}");
        }
        let shown = show(&mesh);
        let one = of(&shown, role);
        assert_eq!(one["sha256"], Value::from(sha256.as_str()), "{one}");
        assert_eq!(one["profile"], path, "{one}");
        assert_eq!(one["mismatches"], serde_json::json!([]), "{one}");
        // A reload keeps what the processes have.
        mesh.write("a/own.json", &reworded(&name).replacen("ours", "others", 1));
        let refused = a.ask(&["reload"]).expect_err("it is refused");
        assert!(
            said(&refused).contains("restart the node"),
            "{}",
            said(&refused)
        );
    }
}

/// A profile that lacks a call is the proof that it is the one in force.
#[test]
fn a_keeper_without_a_call_it_needs_is_killed() {
    let mesh = Mesh::new();
    let mut text: Value = json(&profile(&keeper_profile(&mesh)));
    let rules = text["keeper"]["filter"].as_array_mut().expect("a list");
    rules.retain(|rule| rule["syscall"] != "sendto");
    with_own(&mesh, "profile", &text.to_string());
    let mut a = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
    let status = a.wait_exit();
    assert_eq!(status.code(), Some(3), "{}", a.log());
    assert!(a.log().contains("token[0].module"), "{}", a.log());
}

/// Its allocator is pinned: glibc's question about memory (`/proc/sys/vm/overcommit_memory`, at the first trim of an
/// arena) has been asked before the seal.
#[test]
fn a_sealed_node_asks_for_no_file_even_when_it_gives_much_memory_back() {
    let mesh = Mesh::new();
    let mut text: Value = json(&profile("node"));
    let filters = text.as_object_mut().expect("filters by name");
    assert!(filters.remove("node answers EACCES").is_some());
    with_own(&mesh, "node_profile", &text.to_string());
    let (a, b) = mesh.start_both();
    let pid = a.pid("node");
    for _ in 0..2 {
        for (from, to) in [(&a, "b"), (&b, "a")] {
            if let Err(output) = from.ask(&["ping", to, "--transfer", "64MiB"]) {
                panic!("{}{}", said(&output), a.log());
            }
        }
    }
    assert_eq!(a.pid("node"), pid, "{}", a.log());
}

#[track_caller]
fn refused(mesh: &Mesh, words: &[&str]) {
    let output = mesh.check("a");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for word in words {
        assert!(
            said(&output).contains(word),
            "no {word:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn a_profile_that_somebody_else_could_have_written_is_refused() {
    as_root("only root gives files away");
    let key = "sandbox.node_profile";
    let good = || {
        let mesh = Mesh::new();
        let path = with_own(&mesh, "node_profile", &reworded("node"));
        (mesh, path)
    };
    for mode in [0o620, 0o602, 0o666] {
        let (mesh, path) = good();
        only_ours(&path, mode);
        refused(&mesh, &[key, "others may change it", "chmod go-w"]);
    }
    for mode in [0o720, 0o702] {
        let (mesh, _) = good();
        let folder = mesh.path("a/folder");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::rename(mesh.path("a/own.json"), folder.join("own.json")).expect("it moves");
        mesh.edit("a/node.toml", "own.json", "folder/own.json");
        only_ours(&folder, mode);
        refused(
            &mesh,
            &[key, "the folder", "others may put another file there"],
        );
        // Through a symbolic link that stands in a good place, too.
        std::os::unix::fs::symlink(folder.join("own.json"), mesh.path("a/own.json"))
            .expect("a link");
        mesh.edit("a/node.toml", "folder/own.json", "own.json");
        refused(
            &mesh,
            &[key, "the folder", "others may put another file there"],
        );
        only_ours(&folder, 0o755);
        let passed = mesh.check("a");
        assert!(passed.status.success(), "{}", said(&passed));
    }
    let (mesh, path) = good();
    give(&path);
    refused(&mesh, &[key, "belongs to user 2", "chown"]);
    let (mesh, _) = good();
    let folder = mesh.path("a/folder");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::rename(mesh.path("a/own.json"), folder.join("own.json")).expect("it moves");
    mesh.edit("a/node.toml", "own.json", "folder/own.json");
    give(&folder);
    refused(&mesh, &[key, "the folder", "belongs to user 2"]);
}

/// Another user's from now on; only root can.
fn give(path: &Path) {
    run(Command::new("chown").arg("2").arg(path));
    let mode = std::fs::metadata(path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o022, 0);
}

#[test]
fn a_profile_with_faults_is_refused_before_anything_starts() {
    let refused_with = |text: &str, words: &[&str]| {
        let mesh = Mesh::new();
        with_own(&mesh, "node_profile", text);
        refused(
            &mesh,
            &[&["sandbox.node_profile", "policies/seccomp/"], words].concat(),
        );
    };
    refused_with("{", &["EOF"]);
    refused_with(
        &profile("supervisor"),
        &["\"supervisor\" is no filter of a node"],
    );
    refused_with(
        &profile("node").replacen("kill_process", "log", 1),
        &["\"node\" has the mismatch_action \"log\""],
    );
    refused_with(
        &profile("node").replacen(
            "\"filter\": [",
            "\"filter\": [{\"syscall\": \"execve\", \"comment\": \"x\"},",
            1,
        ),
        &["execve is never allowed in a node"],
    );
    refused_with(
        &profile("node").replacen("{\"masked_eq\": 4}", "{\"masked_eq\": 0}", 1),
        &["mmap: a condition compares no bit"],
    );
    let mesh = Mesh::new();
    with_own(&mesh, "node_profile", "x");
    std::fs::remove_file(mesh.path("a/own.json")).expect("it was there");
    refused(&mesh, &["sandbox.node_profile", "cannot open"]);
}

/// A token that nobody has measured gets the wide profile, which says what it stands for.
#[test]
fn modules_with_sockets_threads_or_other_files_have_a_profile() {
    let shown = json(&run(
        Command::new(FASTNESS).args(["sandbox", "show", "--format", "json"])
    ));
    let roles = shown["roles"].as_array().expect("a list");
    let keeper = roles
        .iter()
        .find(|one| one["profile"] == "keeper")
        .expect("it is shown");
    let allowed = keeper["allowed"].as_array().expect("a list");
    for call in ["socket", "connect", "clone", "ioctl", "semop", "openat"] {
        assert!(allowed.iter().any(|one| one == call), "{call}");
    }
    for call in ["execve", "fork", "bind", "listen", "ptrace", "shmat"] {
        assert!(!allowed.iter().any(|one| one == call), "{call}");
    }
    let why = keeper["rules"].to_string();
    for word in ["a vendor's daemon", "network HSM", "a module's threads"] {
        assert!(why.contains(word), "{word}");
    }
}

/// Who may trace what is not dumpable is root; it does not go unseen, and the whole node stops.
#[test]
fn a_process_with_a_debugger_stops_the_node() {
    as_root("only root traces what is not dumpable");
    for role in ["supervisor", "keeper", "node"] {
        let mesh = Mesh::new();
        let mut a = mesh.start("a");
        let mut tracer = Judge::start(python("trace.py").arg(a.pid(role).to_string()));
        assert_eq!(tracer.hear(), "traced");
        std::thread::scope(|scope| {
            // Asking for its state is what looks. A traced process stops at its next signal until the tracer
            // is gone, and answers nobody.
            let asked = scope.spawn(|| a.ask(&["status"]));
            let line = a.wait_log("traces it");
            assert!(line.contains(&format!("role=\"{role}\"")), "{line}");
            drop(tracer);
            // And whoever asked hears what was found.
            let status = asked
                .join()
                .expect("no panic")
                .expect("the answer comes first");
            let found = status["attestations"].as_array().expect("a list");
            let found = found
                .iter()
                .find(|one| one["role"] == role)
                .expect("it is there");
            assert!(
                found["mismatches"].to_string().contains("traces it"),
                "{found}"
            );
        });
        // Not an exit code that systemd takes for a fault of the configuration.
        assert_eq!(a.wait_exit().code(), Some(1), "{}", a.log());
    }
}

/// What is written about the profiles is what they are.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_documents_have_the_numbers_of_the_profiles() {
    let number = |one: &Value, key: &str| one[key].as_array().expect("a list").len();
    let all = json(&run(
        Command::new(FASTNESS).args(["sandbox", "show", "--format", "json"])
    ));
    let named = |name: &str| {
        let roles = all["roles"].as_array().expect("a list");
        let found = roles.iter().find(|one| one["profile"] == name);
        let found = found.expect("it is shown");
        (number(found, "allowed"), number(found, "argument_checked"))
    };
    let with_users = Mesh::new();
    with_users.name_users("daemon", "bin");
    let supervisor = show(&with_users)["roles"][0].take();
    let (users, checked_users) = (
        number(&supervisor, "allowed"),
        number(&supervisor, "argument_checked"),
    );
    let (plain, checked) = named("supervisor");
    let softhsm = named("keeper-softhsm");
    let kryoptic = named("keeper-kryoptic");
    let other = named("keeper");
    let node = named("node");
    let resolver = named("resolver");
    let security = std::fs::read_to_string(root().join("SECURITY.md")).expect("it is there");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    for (document, words) in [
        (
            &security,
            format!(
                "| supervisor | {plain} (starts children); {users} with users | {checked}; {checked_users} |"
            ),
        ),
        (
            &security,
            format!("| keeper, SoftHSM | {} | {} |", softhsm.0, softhsm.1),
        ),
        (
            &security,
            format!("| keeper, kryoptic | {} | {} |", kryoptic.0, kryoptic.1),
        ),
        (
            &security,
            format!("| keeper, other modules | {} | {} |", other.0, other.1),
        ),
        (&security, format!("| node | {} | {} |", node.0, node.1)),
        (&security, format!("|  {} calls               |", node.0)),
        (&security, format!("|  {plain} calls                |")),
        (&security, format!("use its {} system calls", node.0)),
        (
            &readme,
            format!(
                "Node {} allowed system calls, keeper {} on SoftHSM and {} on kryoptic",
                node.0, softhsm.0, kryoptic.0
            ),
        ),
        (
            &security,
            format!("| resolver | {} | {} |", resolver.0, resolver.1),
        ),
        (&readme, format!("the resolver's ({})", resolver.0)),
        (&readme, format!("({plain} calls)")),
        (&readme, format!("({} calls)", other.0)),
    ] {
        assert!(document.contains(&words), "no {words:?}");
    }
}
