//! Tokens, prepared by the scripts that an operator uses too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{FASTNESS, files, json, root, run};

/// The folder of one token, made by `hsm-setup/…`.
pub struct Tokens {
    pub label: String,
    pub folder: PathBuf,
    pub module: PathBuf,
    pub environment: BTreeMap<String, String>,
}

impl Tokens {
    /// Makes a token with `label` in `parent/token`. `FASTNESS_TEST_TOKEN` names the script that prepares
    /// it; SoftHSM by default.
    pub fn prepare(parent: &Path, label: &str) -> Self {
        let script = std::env::var("FASTNESS_TEST_TOKEN").unwrap_or_else(|_| "softhsm".into());
        Self::made_by(&script, parent, label)
    }

    /// The same by this script in `hsm-setup/`.
    pub fn made_by(script: &str, parent: &Path, label: &str) -> Self {
        run(Command::new(root().join("hsm-setup").join(script))
            .env("FASTNESS", FASTNESS)
            .arg(parent.join("token"))
            .arg(label));
        Self::of(parent, label)
    }

    /// The token that was made in `parent/token`.
    pub fn of(parent: &Path, label: &str) -> Self {
        let folder = parent.join("token");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("hsm-setup writes it");
        let environment = read("environment")
            .lines()
            .map(|line| line.split_once('=').expect("NAME=VALUE"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            label: label.into(),
            module: read("module").trim().into(),
            environment,
            folder,
        }
    }

    pub fn pin_source(&self) -> String {
        format!("file:{}", self.folder.join("pin").display())
    }

    pub fn pin(&self) -> String {
        fs::read_to_string(self.folder.join("pin")).expect("hsm-setup writes it")
    }

    pub fn uri(&self, object: &str) -> String {
        format!("pkcs11:token={};object={object}", self.label)
    }

    /// `program` with what the module needs in its environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(&self.environment);
        command
    }

    pub fn fastness(&self) -> Command {
        self.command(FASTNESS)
    }

    /// Generates a key and returns its SPKI pin.
    pub fn keygen(&self, label: &str, purpose: &str, kind: &str) -> String {
        let made = run(self
            .fastness()
            .args(["token", "keygen", "--format", "json", "--module"])
            .arg(&self.module)
            .args([
                "--token",
                &format!("pkcs11:token={}", self.label),
                "--pin",
                &self.pin_source(),
            ])
            .args(["--label", label, "--purpose", purpose, "--kind", kind]));
        json(&made)["spki_pin"]
            .as_str()
            .expect("keygen prints the pin")
            .into()
    }

    /// Writes a certificate request for a key.
    pub fn csr(&self, label: &str, out: &Path) {
        run(self
            .fastness()
            .args(["token", "csr", "--module"])
            .arg(&self.module)
            .args([
                "--key",
                &self.uri(label),
                "--pin",
                &self.pin_source(),
                "--out",
            ])
            .arg(out));
    }
}

/// Copies a folder of tokens; settings that name the old place name the new one.
pub fn copy(from: &Path, to: &Path) {
    copy_tree(
        from,
        to,
        &from.display().to_string(),
        &to.display().to_string(),
    );
}

fn copy_tree(from: &Path, to: &Path, old: &str, new: &str) {
    fs::create_dir_all(to).expect("a folder");
    files::only_ours(to, 0o700);
    for entry in fs::read_dir(from)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"))
    {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target, old, new);
            continue;
        }
        let bytes = fs::read(&source).expect("a file");
        match std::str::from_utf8(&bytes) {
            Ok(text) if text.contains(old) => {
                files::write_private(&target, &text.replace(old, new))
            }
            _ => {
                fs::copy(&source, &target).expect("a copy");
            }
        }
    }
}
