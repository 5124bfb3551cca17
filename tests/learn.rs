//! `fastness sandbox learn`: what it writes is what the module does, and nobody can use it before a person
//! has given every reason. No node can be made to do it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::node::signal;
use crate::support::{
    FASTNESS, FaultModule, Mesh, Node, Options, as_root, eventually, in_softhsm, json, root, run,
    said,
};

/// `fastness sandbox learn` for node `a`, into `a/draft.json`.
pub fn learn(mesh: &Mesh, more: &[&str]) -> Output {
    Command::new(FASTNESS)
        .args([
            "sandbox",
            "learn",
            "--idle",
            "0",
            "--signatures",
            "4",
            "--config",
        ])
        .arg(mesh.path("a/node.toml"))
        .arg("--out")
        .arg(mesh.path("a/draft.json"))
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

#[track_caller]
fn learned(mesh: &Mesh) -> Value {
    let output = learn(mesh, &["--format", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    json(&String::from_utf8_lossy(&output.stdout))
}

fn calls<'a>(learned: &'a Value, standing: &str) -> Vec<&'a str> {
    let calls = learned["calls"].as_array().expect("a list");
    calls
        .iter()
        .filter(|one| one["standing"] == standing)
        .map(|one| one["call"].as_str().expect("a name"))
        .collect()
}

/// Names the draft as the profile of `a`'s token.
fn use_it(mesh: &Mesh) {
    mesh.edit("a/node.toml", "pin = ", "profile = \"draft.json\"\npin = ");
}

#[test]
fn a_draft_works_once_a_person_has_given_every_reason() {
    let mesh = Mesh::new();
    let found = learned(&mesh);
    // What the mesh's tests have run under is enough for what was seen.
    assert_eq!(calls(&found, "new"), [""; 0], "{found}");
    let known = calls(&found, "known");
    assert!(!known.is_empty(), "{found}");
    if in_softhsm() {
        for call in ["openat", "newfstatat", "read", "close", "fcntl"] {
            assert!(known.contains(&call), "no {call}: {found}");
        }
    }
    assert!(calls(&found, "ours").contains(&"exit_group"), "{found}");
    // Two keys that each sign four times at least; each call of a rule was counted.
    assert!(found["signatures"].as_u64() >= Some(8), "{found}");
    assert!(found["sessions_opened"].as_u64() >= Some(1), "{found}");
    for one in found["calls"].as_array().expect("a list") {
        assert!(one["times"].as_u64() >= Some(1), "{one}");
        assert_eq!(one["supervisor_lacks_it"], false, "{one}");
    }
    let mut draft = json(&mesh.read("a/draft.json"));
    let rules = draft["keeper"]["filter"].as_array_mut().expect("a list");
    let open: Vec<_> = rules.iter().filter(|rule| rule["comment"] == "").collect();
    assert_eq!(open.len(), known.len(), "{open:?}");
    assert_eq!(found["rules_without_reason"], known.len());

    use_it(&mesh);
    let refused = mesh.check("a");
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    for word in ["token[0].profile", "no reason (\"comment\")"] {
        assert!(said(&refused).contains(word), "{}", said(&refused));
    }
    // All but one are not all.
    let last = rules.len() - 1;
    for (index, rule) in rules.iter_mut().enumerate() {
        if index < last && rule["comment"] == "" {
            rule["comment"] = "the module needs it".into();
        }
        for condition in rule["args"].as_array_mut().into_iter().flatten() {
            if condition["comment"] == "" {
                condition["comment"] = "as it was seen".into();
            }
        }
    }
    mesh.write("a/draft.json", &draft.to_string());
    let refused = mesh.check("a");
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    draft["keeper"]["filter"][last]["comment"] = "this one too".into();
    mesh.write("a/draft.json", &draft.to_string());
    let passed = mesh.check("a");
    assert!(passed.status.success(), "{}", said(&passed));
    let (a, b) = mesh.start_both();
    a.ping("b");
    b.ping("a");
    assert!(a.log().contains("not the reviewed one"), "{}", a.log());
}

#[test]
fn what_todays_profile_lacks_is_new() {
    if !in_softhsm() {
        return;
    }
    let mesh = Mesh::new();
    let path = root().join(format!(
        "policies/seccomp/{}/keeper-softhsm.json",
        std::env::consts::ARCH
    ));
    let mut narrow = json(&std::fs::read_to_string(path).expect("a profile"));
    let rules = narrow["keeper"]["filter"].as_array_mut().expect("a list");
    rules.retain(|rule| rule["syscall"] != "openat");
    mesh.write("a/narrow.json", &narrow.to_string());
    mesh.edit("a/node.toml", "pin = ", "profile = \"narrow.json\"\npin = ");
    let found = learned(&mesh);
    let new = calls(&found, "new");
    assert!(!new.is_empty(), "{found}");
    assert!(new.iter().all(|call| *call == "openat"), "{found}");
}

/// Puts a module around SoftHSM that makes the system call `number` whenever it signs or a session is probed.
fn with_a_call(mesh: &Mesh, number: &str) {
    with_code(mesh, &format!("syscall({number}, -1, 0, 0)"));
}

/// The same for any C statement, which may use `once`. PKCS#11's function list (CK_FUNCTION_LIST, v2.40) is a version and 68
/// functions, of which none that is wrapped takes more than five words.
pub fn with_code(mesh: &Mesh, code: &str) {
    const SHIM: &str = r#"
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>
typedef unsigned long word;
typedef word (*call)(word, word, word, word, word);
static struct { word version; call calls[68]; } list;
static call of[68];
static __attribute__((unused)) int once;
#define WRAP(N) static word wrap##N(word a, word b, word c, word d, word e) { CODE; return of[N](a, b, c, d, e); }
WRAP(15) WRAP(42) WRAP(43)
word C_GetFunctionList(void **given) {
    if (!list.version) {
        void *module = dlopen(MODULE, RTLD_NOW);
        void *theirs;
        if (!module || ((word (*)(void **)) dlsym(module, "C_GetFunctionList"))(&theirs)) return 5;
        __builtin_memcpy(&list, theirs, sizeof list);
        __builtin_memcpy(of, list.calls, sizeof of);
        list.calls[15] = wrap15;  /* C_GetSessionInfo */
        list.calls[42] = wrap42;  /* C_SignInit */
        list.calls[43] = wrap43;  /* C_Sign */
    }
    *given = &list;
    return 0;
}
"#;
    let source = mesh.write("a/shim.c", SHIM);
    let library = mesh.path("a/shim.so");
    let module = mesh.tokens("a").module;
    run(Command::new("cc")
        .args(["-D_GNU_SOURCE", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg(format!("-DMODULE={module:?}"))
        .arg(format!("-DCODE={code}")));
    mesh.edit(
        "a/node.toml",
        &format!("module = {module:?}"),
        &format!("module = {library:?}"),
    );
}

/// A reason for every rule of the draft that has none, and for every argument.
fn reasons(mesh: &Mesh) {
    let draft = mesh.read("a/draft.json");
    let reason = "\"comment\":\"the module needs it\"";
    mesh.write("a/draft.json", &draft.replace("\"comment\":\"\"", reason));
}

#[test]
fn a_module_that_our_profile_ends_works_under_the_one_learned_from_it() {
    if !in_softhsm() {
        return;
    }
    let mesh = Mesh::new();
    with_a_call(&mesh, "SYS_times");
    // Killed by its first probe, which may come before it is seen to be ready or after.
    let violates = Options {
        violates: true,
        ..Options::default()
    };
    let mut a = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], violates);
    eventually("the keeper is killed", || {
        let log = a.log();
        ["SIGSYS", "ended or hung its process"]
            .iter()
            .any(|word| log.contains(word))
            .then_some(())
    });
    // Not by force: a login of the next keeper may be writing into the token's folder.
    signal(a.supervisor(), Signal::TERM);
    a.wait_exit();
    let found = learned(&mesh);
    assert_eq!(calls(&found, "new"), ["times"], "{found}");
    use_it(&mesh);
    reasons(&mesh);
    let (a, b) = mesh.start_both();
    a.ping("b");
    b.ping("a");
}

#[test]
fn a_call_that_no_keeper_may_make_is_not_made_and_there_is_no_draft() {
    for name in ["bind", "execve"] {
        let mesh = Mesh::new();
        if !in_softhsm() {
            return;
        }
        with_a_call(&mesh, &format!("SYS_{name}"));
        let output = learn(&mesh, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let word = format!("the module called {name}, which a sealed keeper never may");
        assert!(said(&output).contains(&word), "{}", said(&output));
        assert!(!mesh.path("a/draft.json").exists());
    }
}

/// It cannot be passed on, so nobody could say what the module does after it; nothing hangs.
#[test]
fn a_real_time_signal_ends_the_learning() {
    if !in_softhsm() {
        return;
    }
    let mesh = Mesh::new();
    // SIGRTMAX to the calling thread, blocked or not: its default action is to end the process.
    with_code(
        &mesh,
        "syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), 64)",
    );
    let output = learn(&mesh, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("real-time signal"),
        "{}",
        said(&output)
    );
    assert!(!mesh.path("a/draft.json").exists());
}

#[test]
fn a_module_that_dies_or_fails_while_it_is_watched_leaves_no_draft() {
    for (order, words) in [
        ("abort C_Sign after=10", "ended by SIGABRT"),
        ("fail C_Sign CKR_DEVICE_ERROR after=10", "token[0].module"),
    ] {
        let mesh = Mesh::new();
        FaultModule::before(&mesh).order(order);
        let output = learn(&mesh, &[]);
        assert!(!output.status.success(), "{order}: {}", said(&output));
        assert!(said(&output).contains(words), "{order}: {}", said(&output));
        assert!(!mesh.path("a/draft.json").exists());
    }
}

#[test]
fn the_module_is_watched_as_its_keepers_user() {
    as_root("only root starts a keeper as another user");
    let mesh = Mesh::new();
    mesh.name_users("daemon", "bin");
    let found = learned(&mesh);
    assert_eq!(calls(&found, "new"), [""; 0], "{found}");
}

#[test]
fn it_overwrites_nothing_and_tells_people_what_to_do() {
    let mesh = Mesh::new();
    let output = learn(&mesh, &[]);
    assert!(output.status.success(), "{}", said(&output));
    for word in [
        "times  standing",
        "It cannot be used yet",
        "\"comment\"",
        "exit_group",
    ] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
    let before = mesh.read("a/draft.json");
    let output = learn(&mesh, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert_eq!(mesh.read("a/draft.json"), before);
    std::fs::remove_file(mesh.path("a/draft.json")).expect("it was there");
    let output = learn(&mesh, &["--token", "pkcs11:token=other"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("pkcs11:token=a"),
        "{}",
        said(&output)
    );
    assert!(!mesh.path("a/draft.json").exists());
}

#[test]
fn a_refused_pin_leaves_no_draft() {
    let mesh = Mesh::new();
    mesh.write("a/token/pin", "000000000");
    let output = learn(&mesh, &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("token[0].pin"), "{}", said(&output));
    assert!(!mesh.path("a/draft.json").exists());
}

#[test]
fn no_node_learns() {
    let usage = Command::new(FASTNESS)
        .args(["run", "--learn"])
        .output()
        .expect("the binary runs");
    assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
    // The role alone, with nobody who traces and speaks to it.
    let alone = Command::new(FASTNESS)
        .arg("role-learner")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert_eq!(alone.status.code(), Some(1), "{}", said(&alone));
    assert!(
        said(&alone).contains("nobody traces this process"),
        "{}",
        said(&alone)
    );
    // Whoever runs a node knows nothing of it.
    for room in ["supervisor", "node"] {
        let mut folders: Vec<PathBuf> = vec![root().join("src").join(room)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("source");
                for word in ["learn::", "Learner", "Tracer", "role-learner"] {
                    assert!(!text.contains(word), "{} uses {word}", path.display());
                }
            }
        }
    }
}
