//! The first thing that a newcomer runs.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::{FASTNESS, root, run, said};

#[test]
fn every_line_of_the_demo_is_as_expected_and_a_second_run_starts_clean() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let demo = || {
        let mut command = Command::new(root().join("hsm-setup/demo"));
        command
            .args(["--binary", FASTNESS, "--folder"])
            .arg(folder.path().join("mesh"));
        command
    };
    let said = run(&mut demo());
    assert!(said.contains("all 18 lines as expected"), "{said}");
    let ends = said.matches("exit 0, 0 of 3 processes left").count();
    assert_eq!(ends, 2, "{said}");
    let said = run(demo().arg("--keep"));
    assert!(said.contains("still running"), "{said}");
    // The third run ends what the second left.
    let said = run(&mut demo());
    assert!(
        said.contains("the node-a of an earlier run was told to stop"),
        "{said}"
    );
    assert!(said.contains("all 18 lines as expected"), "{said}");
}

#[test]
fn one_line_that_is_not_as_expected_fails_the_demo() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let altered = folder.path().join("altered");
    let script = format!(
        "#!/bin/bash
set -o pipefail
case \"$1 $2\" in\n\
         'ping b') {FASTNESS:?} \"$@\" | sed 's/\"bytes_received\":67108864/\"bytes_received\":67108863/' ;;\n\
         *) exec {FASTNESS:?} \"$@\" ;;\nesac\n"
    );
    std::fs::write(&altered, script).expect("a script");
    std::fs::set_permissions(&altered, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let output = Command::new(root().join("hsm-setup/demo"))
        .arg("--binary")
        .arg(&altered)
        .arg("--folder")
        .arg(folder.path().join("mesh"))
        .output()
        .expect("bash");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let failed: Vec<_> = said
        .lines()
        .filter(|line| line.contains("FAILED"))
        .collect();
    assert_eq!(failed.len(), 1, "{said}");
    for word in [
        "node-a calls node-b: 64 MiB each way",
        "67108864 and 67108863 bytes",
    ] {
        assert!(failed[0].contains(word), "{said}");
    }
    assert!(
        said.contains("1 of 18 lines were not as expected"),
        "{said}"
    );
}

#[test]
fn the_demo_does_not_empty_a_folder_that_is_not_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("thesis"), "years").expect("a file");
    let output = Command::new(root().join("hsm-setup/demo"))
        .args(["--binary", FASTNESS, "--folder"])
        .arg(folder.path())
        .output()
        .expect("bash");
    assert!(!output.status.success(), "{}", said(&output));
    assert!(folder.path().join("thesis").exists());
}

#[test]
fn a_kernel_that_cannot_confine_is_named_before_anything_is_installed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = folder.path().join("uname");
    std::fs::write(&old, "#!/bin/sh\necho 6.1.0-40-amd64\n").expect("a script");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = std::env::var("PATH").expect("a path");
    for (script, arguments) in [
        ("hsm-setup/demo", &[][..]),
        ("tests/run", &[]),
        ("benches/run", &["handshakes"]),
    ] {
        let output = Command::new(root().join(script))
            .args(arguments)
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .output()
            .expect("bash");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(output.stdout.is_empty(), "{}", said(&output));
        for word in ["Linux 6.1.0-40-amd64", "6.12", "bookworm-backports"] {
            assert!(said(&output).contains(word), "{}", said(&output));
        }
    }
}
