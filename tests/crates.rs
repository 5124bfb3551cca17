//! `deny.toml` holds for every `Cargo.lock`, also where cargo-deny is not installed: no version below a floor, no
//! banned crate, no crate from elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

use crate::support::{root, run};

/// The module of `tests/kryoptic` is a token and stands on OpenSSL; nothing of ours is linked with it.
const A_TOKEN: &str = "tests/kryoptic";

/// What `deny.toml` says of a crate.
struct Ban {
    name: String,
    /// Versions from here on are not banned.
    floor: Option<Vec<u64>>,
}

impl Ban {
    fn all() -> Vec<Self> {
        let rules = parsed(&root().join("deny.toml"));
        let bans = rules["bans"]["deny"].as_array().expect("a list");
        bans.iter()
            .map(|ban| {
                let words = ban["crate"].as_str().expect("text");
                let (name, versions) = words.split_once('@').unzip();
                Self {
                    name: name.unwrap_or(words).to_owned(),
                    floor: versions.map(|versions| {
                        let below = versions.strip_prefix('<');
                        version(
                            below.unwrap_or_else(|| panic!("{words}: only floors are known here")),
                        )
                    }),
                }
            })
            .collect()
    }

    /// Whether it is about this package of a lock file.
    fn hits(&self, package: &Value) -> bool {
        package["name"].as_str() == Some(&self.name)
            && self
                .floor
                .as_ref()
                .is_none_or(|floor| version(package["version"].as_str().expect("text")) < *floor)
    }
}

fn parsed(file: &Path) -> Table {
    let text = fs::read_to_string(file).expect("it is there");
    text.parse().expect("TOML")
}

/// Major, minor and patch.
fn version(text: &str) -> Vec<u64> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default().split('.');
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// Folders with a lock file; not those of builds and environments.
fn locked(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "Cargo.lock" {
            found.push(folder.to_owned());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && name != "target"
            && !name.starts_with('.')
        {
            found.extend(locked(&entry.path()));
        }
    }
    found
}

/// Whether any build would have it: a lock file also has what an optional feature of a dependency would need.
fn is_built(folder: &Path, name: &str) -> bool {
    let tree = run(Command::new(env!("CARGO"))
        .args([
            "tree",
            "--quiet",
            "--locked",
            "--all-features",
            "--target",
            "all",
        ])
        .args(["--edges", "all", "--invert", name])
        .current_dir(folder));
    !tree.is_empty()
}

#[test]
fn every_lock_file_keeps_to_the_floors_bans_and_sources_of_deny_toml() {
    let bans = Ban::all();
    let (floors, whole): (Vec<_>, Vec<_>) = bans.iter().partition(|ban| ban.floor.is_some());
    assert!(floors.len() >= 3 && whole.len() >= 4);
    let folders = locked(root());
    assert!(folders.len() >= 5, "{folders:?}");
    for folder in folders {
        let place = folder.display();
        let lock = parsed(&folder.join("Cargo.lock"));
        for package in lock["package"].as_array().expect("a list") {
            for ban in &floors {
                assert!(!ban.hits(package), "{place} has {package}");
            }
            let ours = package.get("source").is_none();
            let known = "registry+https://github.com/rust-lang/crates.io-index";
            assert!(
                ours || package["source"].as_str() == Some(known),
                "{place} has {package}"
            );
            for ban in &whole {
                assert!(
                    !ban.hits(package)
                        || folder.ends_with(A_TOKEN)
                        || !is_built(&folder, &ban.name),
                    "{place} builds {package}"
                );
            }
        }
    }
}

#[test]
fn a_floor_is_the_first_version_that_is_let_in() {
    let rustls = Ban::all().into_iter().find(|ban| ban.name == "rustls");
    let rustls = rustls.expect("it has a floor");
    let is = |version: &str| {
        let package = format!("name = \"rustls\"\nversion = \"{version}\"");
        rustls.hits(&Value::Table(package.parse().expect("TOML")))
    };
    assert!(is("0.23.9") && is("0.23.44") && is("0.22.99"));
    assert!(!is("0.23.45") && !is("0.24.0") && !is("1.0.0"));
}

#[test]
fn what_is_built_is_found_and_what_only_stands_in_a_lock_file_is_not() {
    assert!(is_built(root(), "rustls"));
    assert!(!is_built(root(), "ring"), "banned");
}
