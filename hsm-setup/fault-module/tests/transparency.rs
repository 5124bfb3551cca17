//! Without rules the module is the one behind it, but for its name.

#[expect(dead_code, reason = "shared by several test files")]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use support::*;

fn tool(scene: &Scene, module: &Path, arguments: &[&str]) -> String {
    let output = succeeds(scene.command("pkcs11-tool").arg("--module").arg(module).args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pkcs11_tool_generates_signs_and_lists_through_it() {
    let scene = Scene::new("");
    let (ours, real) = (module(), Path::new(SOFTHSM));
    let login = ["--login", "--pin", PIN];
    for kind in ["EC:prime256v1", "rsa:2048"] {
        let id = if kind.starts_with("EC") { "01" } else { "02" };
        tool(&scene, &ours, &[&login[..], &["--keypairgen", "--key-type", kind, "--id", id, "--label", "k"]].concat());
    }
    std::fs::write(scene.path("digest"), [7; 32]).unwrap();
    let (digest, signature) = (scene.path("digest"), scene.path("signature"));
    let files = ["--input-file", digest.to_str().unwrap(), "--output-file", signature.to_str().unwrap()];
    let sign = ["--sign", "--mechanism", "ECDSA", "--id", "01", "--signature-format", "openssl"];
    tool(&scene, &ours, &[&login[..], &sign, &files].concat());

    // An independent judge: openssl with the public key as the real module gives it.
    let key = scene.path("key");
    let read = ["--read-object", "--type", "pubkey", "--id", "01", "--output-file", key.to_str().unwrap()];
    tool(&scene, real, &read);
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]).arg(&key);
    succeeds(openssl.arg("-in").arg(&digest).arg("-sigfile").arg(&signature));

    for listing in [&["--list-objects"][..], &["--list-mechanisms"], &["--list-token-slots"]] {
        let arguments = [&login[..], listing].concat();
        let (ours, real) = (tool(&scene, &ours, &arguments), tool(&scene, real, &arguments));
        let plain = ours.replace("TEST DOUBLE ", "");
        // A long description is cut to make room for the name.
        let same = |(ours, real): (&str, &str)| ours == real || (ours.starts_with("Slot") && real.starts_with("Slot"));
        assert!(plain.lines().zip(real.lines()).all(same), "{plain}\n{real}");
        assert_eq!(plain.lines().count(), real.lines().count());
    }
}

#[test]
fn it_is_named_a_test_double_and_the_token_keeps_its_name() {
    rehearse("", || {
        let client = Client::new();
        let library = client.pkcs11.get_library_info().unwrap();
        assert!(library.manufacturer_id().starts_with("TEST DOUBLE SoftHSM"), "{library:?}");
        assert!(library.library_description().starts_with("TEST DOUBLE "), "{library:?}");
        let slot = client.pkcs11.get_slot_info(client.slot).unwrap();
        assert!(slot.slot_description().starts_with("TEST DOUBLE "), "{slot:?}");
        let token = client.pkcs11.get_token_info(client.slot).unwrap();
        assert!(token.manufacturer_id().starts_with("TEST DOUBLE SoftHSM"), "{token:?}");
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
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        assert_eq!(pkcs11.get_library_info().unwrap().cryptoki_version().minor(), 40);
    });
}

#[test]
fn settings_may_lie_beside_the_module() {
    let scene = Scene::new("");
    let copy = scene.path("hsm.so");
    std::fs::copy(module(), &copy).unwrap();
    let settings = format!("module {SOFTHSM}\nstate {}\n", scene.state().display());
    std::fs::write(scene.path("hsm.so.conf"), settings).unwrap();
    let mut tool = scene.command("pkcs11-tool");
    tool.env_remove("FASTNESS_FAULT_CONF").env_remove("FASTNESS_FAULT_STATE");
    let output = succeeds(tool.arg("--module").arg(&copy).arg("--list-token-slots"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("rehearsal"));
    assert_eq!(count_in(&scene.ctl("counts --json"), "C_Initialize", "calls"), 1);
}

#[test]
fn a_module_without_its_state_does_not_start() {
    let scene = Scene::new("");
    std::fs::remove_file(scene.state()).unwrap();
    let mut tool = scene.command("pkcs11-tool");
    let output = tool.arg("--module").arg(module()).arg("--list-slots").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("TEST DOUBLE"), "{output:?}");
}

/// In seccomp's strict mode a process that makes any system call but read, write and exit is killed:
/// counting, failing and reading rules make none.
#[test]
fn counting_and_failing_make_no_system_call() {
    if inside() {
        let client = Client::new();
        let session = client.login();
        // SAFETY: a system call without pointers. From here on: no allocation that asks the kernel.
        let strict = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        let mut wrong = strict != 0;
        for call in 0..1000 {
            // The settings strike calls 501 to 600.
            wrong |= session.get_session_info().is_err() != (500..600).contains(&call);
        }
        // SAFETY: ends this thread, the only one that is left to matter; exit_group is forbidden.
        unsafe { libc::syscall(libc::SYS_exit, libc::c_long::from(wrong)) };
    }
    let scene = Scene::new("fail C_GetSessionInfo CKR_DEVICE_ERROR times=100 after=500");
    let mut child = scene.spawn();
    let start = Instant::now();
    while count_in(&scene.ctl("counts --json"), "C_GetSessionInfo", "calls") < 1000 {
        assert!(start.elapsed().as_secs() < 10, "{:?}", child.try_wait());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    // The test's thread is gone; the harness that waits for it is not.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count_in(&scene.ctl("counts --json"), "C_GetSessionInfo", "injected"), 100);
}

/// `cargo test --release -- --ignored --nocapture cost` prints it.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_an_idle_module() {
    if inside() {
        const CALLS: u32 = 1_000_000;
        let name = env("COST_MODULE");
        let client = Client::of(Path::new(&name));
        let login = client.login();
        let (_, key) = key_pair(&login);
        let measure = |threads: u32| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let session = client.session();
                    scope.spawn(move || (0..CALLS).for_each(|_| assert!(session.get_session_info().is_ok())));
                }
            });
            start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
        };
        let (one, two) = (measure(1), measure(2));
        let start = Instant::now();
        (0..20_000).for_each(|_| drop(sign(&login, key).unwrap()));
        let sign = start.elapsed().as_secs_f64() * 1e6 / 20_000.0;
        println!("{}: C_GetSessionInfo {one:.0} ns, on 2 threads {two:.0} ns; signature {sign:.2} µs", name.display());
        return;
    }
    for path in [Path::new(SOFTHSM), &module(), Path::new(SOFTHSM), &module()] {
        let scene = Scene::new("");
        let mut command = scene.command(std::env::current_exe().unwrap());
        command.args(["--exact", "the_cost_of_an_idle_module", "--nocapture", "--ignored"]);
        let status = command.env("COST_MODULE", path).env("FAULT_TEST_INSIDE", "1").stdin(Stdio::null()).status();
        assert!(status.unwrap().success());
    }
}
