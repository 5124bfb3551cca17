//! A folder with a SoftHSM token, the real binary, and openssl as judge.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const PIN: &str = "271828";
/// Kinds of keys, as `openssl genpkey` arguments.
pub(crate) const KINDS: [(&str, &[&str]); 5] = [
    (
        "p256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ),
    (
        "p384",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ),
    (
        "rsa2048",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ),
    (
        "rsa3072",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
    ),
    ("ed25519", &["-algorithm", "ED25519"]),
];

pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert!(self.ok, "failed: {self:?}");
        self.stdout
    }

    /// Fails, and says `words`.
    #[track_caller]
    pub(crate) fn refused(self, words: &str) {
        assert!(!self.ok, "not refused: {self:?}");
        assert!(self.stderr.contains(words), "no {words:?} in {self:?}");
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            ok: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Bench {
    /// A token `ca` with one key of each kind in `kinds`, labelled by its kind.
    pub(crate) fn new(kinds: &[&str]) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        std::fs::create_dir(bench.path("tokens")).expect("token folder");
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            bench.path("tokens").display()
        );
        bench.write("softhsm2.conf", conf.as_bytes());
        bench.write("pin", PIN.as_bytes());
        use std::os::unix::fs::PermissionsExt;
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(bench.path("pin"), owner_only).expect("mode of the PIN file");
        bench
            .tool(
                "softhsm2-util",
                "--init-token --free --label ca --so-pin 31415926 --pin 271828",
            )
            .succeeded();
        kinds.iter().for_each(|kind| bench.generate_in_token(kind));
        bench
    }

    fn generate_in_token(&self, kind: &str) {
        self.fastness(&format!(
            "token keygen --module {MODULE} --token pkcs11:token=ca --pin file:pin \
             --purpose ca --label {kind} --kind {kind}"
        ))
        .succeeded();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect(name);
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        Path::new(&self.path(name)).exists()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    /// Runs another program with arguments that have no spaces in them.
    pub(crate) fn tool(&self, program: &str, arguments: &str) -> Outcome {
        let output = self
            .command(program)
            .args(arguments.split_whitespace())
            .output();
        output.expect(program).into()
    }

    pub(crate) fn openssl(&self, arguments: &str) -> Outcome {
        self.tool("openssl", arguments)
    }

    /// Runs the real binary.
    pub(crate) fn fastness(&self, arguments: &str) -> Outcome {
        self.tool(env!("CARGO_BIN_EXE_fastness"), arguments)
    }

    /// Starts the real binary and does not wait for it.
    pub(crate) fn start(&self, arguments: &str) -> std::process::Child {
        let mut command = self.command(env!("CARGO_BIN_EXE_fastness"));
        command
            .args(arguments.split_whitespace())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("fastness starts")
    }

    /// Makes an authority in `dir` over the token's key `key`.
    pub(crate) fn authority(&self, dir: &str, key: &str) {
        self.fastness(&format!(
            "ca init --dir {dir} --module {MODULE} --key pkcs11:token=ca;object={key} \
             --pin file:pin --name Root-{dir}"
        ))
        .succeeded();
    }

    /// A request of a peer that is not ours, with a key of `kind` in a file.
    pub(crate) fn request(&self, name: &str, kind: &str) {
        let arguments = KINDS
            .iter()
            .find(|(known, _)| *known == kind)
            .expect("a kind")
            .1;
        self.openssl(&format!("genpkey -out {name}.key {}", arguments.join(" ")))
            .succeeded();
        self.openssl(&format!(
            "req -new -key {name}.key -subj /CN={name} -out {name}.csr"
        ))
        .succeeded();
    }

    /// Issues `name.pem` for `name.csr`; `more` goes to the command line.
    pub(crate) fn issue(&self, dir: &str, name: &str, profile: &str, more: &str) -> Outcome {
        self.fastness(&format!(
            "ca issue --dir {dir} --pin file:pin --csr {name}.csr --profile {profile} \
             --id spiffe://mesh.example/node/{name} --out {name}.pem {more}"
        ))
    }

    pub(crate) fn list(&self, dir: &str, more: &str) -> Outcome {
        self.fastness(&format!(
            "ca crl --dir {dir} --pin file:pin --out {dir}.crl {more}"
        ))
    }

    /// `openssl verify`, as strict as it goes.
    pub(crate) fn verify(&self, dir: &str, name: &str, more: &str) -> Outcome {
        self.openssl(&format!(
            "verify -x509_strict -CAfile {dir}/ca.pem {more} {name}.pem"
        ))
    }
}
