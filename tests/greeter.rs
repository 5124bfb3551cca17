//! `examples/greeter.rs`: a gRPC service of one's own behind mutual TLS, token keys and peer policy.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::judges::{client, python_peer};
use crate::support::{FASTNESS, Mesh, Options, root, run};

/// The example as its source is now: `cargo test --test all` builds none.
fn greeter() -> PathBuf {
    let target = Path::new(FASTNESS).ancestors().nth(2).expect("cargo's");
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--example", "greeter"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(root()));
    target.join("debug/examples/greeter")
}

#[test]
fn the_example_serves_peers_and_calls_them() {
    let greeter = greeter();
    let mut mesh = Mesh::new();
    let peer = python_peer(&mut mesh, "python", None);
    let start = |name| {
        mesh.start_with(
            name,
            Options {
                binary: Some(greeter.clone()),
                ..Options::default()
            },
        )
    };
    mesh.edit("a/node.toml", "[limits]", "[limits]\nmessage_bytes = 2048");
    let (a, _b) = (start("a"), start("b"));
    let said = run(&mut client(&mesh, &a, &peer, "greet"));
    let greetings: Vec<_> = said.lines().collect();
    assert_eq!(
        greetings,
        [
            "Hello Ada, says a to python",
            "Hello Ada, says b to a",
            "NOT_FOUND",
        ]
    );
    let codes = run(&mut client(&mesh, &a, &peer, "beyond-the-limit"));
    assert_eq!(codes, "OUT_OF_RANGE\n".repeat(3), "limits.message_bytes");
}

#[test]
fn the_example_is_under_forty_lines() {
    let text = std::fs::read_to_string(root().join("examples/greeter.rs")).expect("the example");
    assert!(text.lines().count() < 40);
}
