//! Without rules the module is the one behind it, but for its name.

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]
#[allow(dead_code, reason = "shared by several test files")]
mod support;

use std::path::Path;
use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use support::*;

fn tool(scene: &Scene, module: &Path, arguments: &[&str]) -> String {
    let output = succeeds(
        scene
            .command("pkcs11-tool")
            .arg("--module")
            .arg(module)
            .args(arguments),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pkcs11_tool_generates_signs_and_lists_through_it() {
    let scene = Scene::new("");
    let (ours, real) = (module(), Path::new(SOFTHSM));
    let login = ["--login", "--pin", PIN];
    for kind in ["EC:prime256v1", "rsa:2048"] {
        let id = if kind.starts_with("EC") { "01" } else { "02" };
        tool(
            &scene,
            &ours,
            &[
                &login[..],
                &[
                    "--keypairgen",
                    "--key-type",
                    kind,
                    "--id",
                    id,
                    "--label",
                    "k",
                ],
            ]
            .concat(),
        );
    }
    std::fs::write(scene.path("digest"), [7; 32]).unwrap();
    let (digest, signature) = (scene.path("digest"), scene.path("signature"));
    let files = [
        "--input-file",
        digest.to_str().unwrap(),
        "--output-file",
        signature.to_str().unwrap(),
    ];
    let sign = [
        "--sign",
        "--mechanism",
        "ECDSA",
        "--id",
        "01",
        "--signature-format",
        "openssl",
    ];
    tool(&scene, &ours, &[&login[..], &sign, &files].concat());

    // An independent judge: openssl with the public key as the real module gives it.
    let key = scene.path("key");
    let read = [
        "--read-object",
        "--type",
        "pubkey",
        "--id",
        "01",
        "--output-file",
        key.to_str().unwrap(),
    ];
    tool(&scene, real, &read);
    let mut openssl = Command::new("openssl");
    openssl
        .args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"])
        .arg(&key);
    succeeds(
        openssl
            .arg("-in")
            .arg(&digest)
            .arg("-sigfile")
            .arg(&signature),
    );

    for listing in [
        &["--list-objects"][..],
        &["--list-mechanisms"],
        &["--list-token-slots"],
    ] {
        let arguments = if listing[0] == "--list-objects" {
            [&login[..], listing].concat()
        } else {
            listing.to_vec()
        };
        let (ours, real) = (
            tool(&scene, &ours, &arguments),
            tool(&scene, real, &arguments),
        );
        let plain = ours.replace("TEST DOUBLE ", "");
        // A long description is cut to make room for the name.
        let same = |(ours, real): (&str, &str)| {
            ours == real || (ours.starts_with("Slot") && real.starts_with("Slot"))
        };
        assert!(plain.lines().zip(real.lines()).all(same), "{plain}\n{real}");
        assert_eq!(plain.lines().count(), real.lines().count());
    }
}

#[test]
fn it_is_named_a_test_double_and_the_token_keeps_its_name() {
    rehearse("", || {
        let client = Client::new();
        let library = client.pkcs11.get_library_info().unwrap();
        assert!(
            library.manufacturer_id().starts_with("TEST DOUBLE SoftHSM"),
            "{library:?}"
        );
        assert!(
            library.library_description().starts_with("TEST DOUBLE "),
            "{library:?}"
        );
        let slot = client.pkcs11.get_slot_info(client.slot).unwrap();
        assert!(
            slot.slot_description().starts_with("TEST DOUBLE "),
            "{slot:?}"
        );
        let token = client.pkcs11.get_token_info(client.slot).unwrap();
        assert!(
            token.manufacturer_id().starts_with("TEST DOUBLE SoftHSM"),
            "{token:?}"
        );
        assert_eq!((token.label(), token.model()), ("rehearsal", "SoftHSM v2"));
        assert!(!token.serial_number().is_empty());
    });
}

#[test]
fn a_module_of_v2_is_not_made_newer() {
    rehearse("", || {
        let pkcs11 = Pkcs11::new(module()).unwrap();
        assert!(pkcs11.is_fn_supported(Function::SignInit));
        assert!(!pkcs11.is_fn_supported(Function::MessageSignInit));
        pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .unwrap();
        assert_eq!(
            pkcs11
                .get_library_info()
                .unwrap()
                .cryptoki_version()
                .minor(),
            40
        );
    });
}

/// OpenSC's module has the interface of v3.0; it needs no card to be asked for it.
#[test]
fn a_module_of_v3_is_not_made_older() {
    const OPENSC: &str = "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so";
    if !inside() && !Path::new(OPENSC).exists() {
        eprintln!("skipped: {OPENSC} is not installed");
        return;
    }
    if inside() {
        let pkcs11 = Pkcs11::new(module()).unwrap();
        assert!(pkcs11.is_fn_supported(Function::GetInterface));
        let real = Pkcs11::new(OPENSC).unwrap();
        for function in [
            Function::SignInit,
            Function::LoginUser,
            Function::MessageSignInit,
        ] {
            assert_eq!(
                pkcs11.is_fn_supported(function),
                real.is_fn_supported(function)
            );
        }
        assert!(count("C_GetInterface", "calls") > 0);
        return;
    }
    let scene = Scene::new("");
    std::fs::write(scene.path("fault.conf"), format!("module {OPENSC}\n")).unwrap();
    assert!(scene.spawn().wait().unwrap().success());
}

#[test]
fn settings_may_lie_beside_the_module() {
    let scene = Scene::new("");
    let copy = scene.path("hsm.so");
    std::fs::copy(module(), &copy).unwrap();
    let settings = format!("module {SOFTHSM}\nstate {}\n", scene.state().display());
    std::fs::write(scene.path("hsm.so.conf"), settings).unwrap();
    let mut tool = scene.command("pkcs11-tool");
    tool.env_remove("FASTNESS_FAULT_CONF")
        .env_remove("FASTNESS_FAULT_STATE");
    let output = succeeds(tool.arg("--module").arg(&copy).arg("--list-token-slots"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("rehearsal"));
    assert_eq!(
        count_in(&scene.ctl("counts --json"), "C_Initialize", "calls"),
        1
    );
}

#[test]
fn a_module_without_its_state_does_not_start() {
    let scene = Scene::new("");
    std::fs::remove_file(scene.state()).unwrap();
    let mut tool = scene.command("pkcs11-tool");
    let output = tool
        .arg("--module")
        .arg(module())
        .arg("--list-slots")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("TEST DOUBLE"),
        "{output:?}"
    );
}

/// Under a filter that kills the process for everything but waiting, and getpid, which SoftHSM calls
/// each time: counting, rules, failing, delays and queues need nothing else.
#[test]
fn a_confined_module_only_waits() {
    if inside() {
        let client = Client::new();
        let session = client.login();
        confine(&[
            libc::SYS_getpid,
            libc::SYS_clock_nanosleep,
            libc::SYS_exit_group,
        ]);
        // The settings strike calls 501 to 600.
        let right = |call| session.get_session_info().is_err() == (500..600).contains(&call);
        let wrong = !(0..1000).all(right);
        // SAFETY: ends the process; no destructor may make a system call now.
        unsafe { libc::_exit(libc::c_int::from(wrong)) };
    }
    let scene = Scene::new(
        "fail C_GetSessionInfo CKR_DEVICE_ERROR times=100 after=500\n\
         set C_GetSessionInfo delay=200us jitter=50us sessions=2\n\
         idle-death 10s\nmax-sessions 4\npin-flags count-low",
    );
    let status = scene.spawn().wait().unwrap();
    assert!(status.success(), "{status}: {}", scene.ctl("counts"));
    let json = scene.ctl("counts --json");
    let counts = ["calls", "injected", "delayed"]
        .map(|counter| count_in(&json, "C_GetSessionInfo", counter));
    assert_eq!(counts, [1000, 100, 1000]);
}

/// From here on this thread may make these system calls only; any other one kills the process.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the fields' own types"
)]
fn confine(allowed: &[libc::c_long]) {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    let mut filter = vec![step(load, 0, 0)];
    for (place, call) in allowed.iter().enumerate() {
        filter.push(step(equal, (allowed.len() - place) as u8, *call as u32));
    }
    filter.push(step(answer, 0, libc::SECCOMP_RET_KILL_PROCESS));
    filter.push(step(answer, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a system call without pointers.
    let no_new = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` is valid for the call, which copies it.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!((no_new, filtered), (0, 0));
}

/// `cargo test --release --test transparency -- --ignored --nocapture cost` prints it: the fastest of
/// many short rounds, so that other work on the machine does not count.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_an_idle_module() {
    const ROUNDS: usize = 2000;
    const CALLS: u32 = 500;
    if inside() {
        let name = env("COST_MODULE");
        let client = Client::of(Path::new(&name));
        let login = client.login();
        let (_, key) = key_pair(&login);
        let fastest = |rounds: usize, calls: u32, call: &dyn Fn()| {
            let round = || (0..calls).for_each(|_| call());
            let best = (0..rounds).map(|_| timed(round)).min().unwrap();
            best.as_secs_f64() * 1e9 / f64::from(calls)
        };
        let info = fastest(ROUNDS, CALLS, &|| assert!(login.get_session_info().is_ok()));
        let sign = fastest(ROUNDS, 5, &|| drop(sign(&login, key).unwrap())) / 1000.0;
        println!(
            "{}: C_GetSessionInfo {info:.0} ns, signature {sign:.2} µs",
            name.display()
        );
        return;
    }
    for path in [Path::new(SOFTHSM), &module(), Path::new(SOFTHSM), &module()] {
        let scene = Scene::new("");
        let mut command = scene.command(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "the_cost_of_an_idle_module",
            "--nocapture",
            "--ignored",
        ]);
        let status = command
            .env("COST_MODULE", path)
            .env("FAULT_TEST_INSIDE", "1")
            .status();
        assert!(status.unwrap().success());
    }
}
