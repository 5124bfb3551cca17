//! A SoftHSM token in a temporary folder behind a fault module. PKCS#11 state belongs to a process,
//! so each test runs its body in a process of its own: `Scene::play` starts this test binary once
//! more for the one test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

pub(crate) const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub(crate) const PIN: &str = "123456";
const INSIDE: &str = "FAULT_TEST_INSIDE";
/// The parameters of P-256: its object identifier in DER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The token's folder, and what belongs to it.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
}

impl Scene {
    /// A fresh token called `rehearsal`, a settings file with `rules`, and a state file.
    pub(crate) fn new(rules: &str) -> Self {
        let scene = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(scene.path("tokens")).unwrap();
        let tokens = scene.path("tokens");
        std::fs::write(
            scene.path("softhsm2.conf"),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                tokens.display()
            ),
        )
        .unwrap();
        std::fs::write(
            scene.path("fault.conf"),
            format!("module {SOFTHSM}\n{rules}\n"),
        )
        .unwrap();
        let init = [
            "--init-token",
            "--free",
            "--label",
            "rehearsal",
            "--so-pin",
            PIN,
            "--pin",
            PIN,
        ];
        succeeds(scene.command("softhsm2-util").args(init));
        scene.ctl("create");
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// `program` with the environment of the scene.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("FASTNESS_FAULT_CONF", self.path("fault.conf"))
            .env("FASTNESS_FAULT_STATE", self.state());
        command
    }

    /// Gives `fault-ctl` an order.
    pub(crate) fn ctl(&self, order: &str) -> String {
        ctl(&self.state(), order)
    }

    /// Plays the one running test's body in another process; to be waited for.
    pub(crate) fn spawn(&self) -> std::process::Child {
        let name = thread::current().name().unwrap().to_owned();
        let mut command = self.command(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            &name,
            "--nocapture",
            "--include-ignored",
            "--test-threads=1",
        ]);
        command.env(INSIDE, "1").spawn().unwrap()
    }
}

/// Runs `body` in a process of its own and returns how that ended; `None` inside of it.
pub(crate) fn play(rules: &str, body: impl FnOnce()) -> Option<ExitStatus> {
    if inside() {
        body();
        return None;
    }
    let scene = Scene::new(rules);
    Some(scene.spawn().wait().unwrap())
}

/// As `play`, and the body must not fail.
pub(crate) fn rehearse(rules: &str, body: impl FnOnce()) {
    if let Some(status) = play(rules, body) {
        assert!(status.success(), "{status}");
    }
}

pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// `fault-ctl` on the state file of this process.
pub(crate) fn order(order: &str) -> String {
    ctl(
        Path::new(&std::env::var_os("FASTNESS_FAULT_STATE").unwrap()),
        order,
    )
}

fn ctl(state: &Path, order: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fault-ctl"));
    let output = succeeds(command.arg(state).args(order.split_whitespace()));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {} {text}",
        output.status
    );
    output
}

/// The module under test, built beside this test.
pub(crate) fn module() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libfastness_fault.so")
}

/// One counter of a function as `fault-ctl counts --json` tells it.
pub(crate) fn count(function: &str, counter: &str) -> u64 {
    count_in(&order("counts --json"), function, counter)
}

pub(crate) fn count_in(json: &str, function: &str, counter: &str) -> u64 {
    let Some((_, cells)) = json.split_once(&format!("\"{function}\":{{")) else {
        return 0;
    };
    let cells = cells.split('}').next().unwrap();
    let (_, value) = cells.split_once(&format!("\"{counter}\":")).unwrap();
    value.split(',').next().unwrap().parse().unwrap()
}

/// Waits until a counter has reached `value`.
pub(crate) fn await_count(function: &str, counter: &str, value: u64) {
    await_count_in(|| order("counts --json"), function, counter, value);
}

/// The same for counters told by `json`.
pub(crate) fn await_count_in(json: impl Fn() -> String, function: &str, counter: &str, value: u64) {
    let start = Instant::now();
    while count_in(&json(), function, counter) < value {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{function} {counter} stays below {value}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A client of the module under test.
pub(crate) struct Client {
    pub(crate) pkcs11: Pkcs11,
    pub(crate) slot: Slot,
}

impl Client {
    /// Initialised, not logged in.
    pub(crate) fn new() -> Self {
        Self::of(&module())
    }

    pub(crate) fn of(module: &Path) -> Self {
        let pkcs11 = Pkcs11::new(module).unwrap();
        pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .unwrap();
        let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
        Self { pkcs11, slot }
    }

    /// A session, logged in.
    pub(crate) fn login(&self) -> Session {
        let session = self.session();
        session.login(UserType::User, Some(&pin())).unwrap();
        session
    }

    pub(crate) fn session(&self) -> Session {
        self.pkcs11.open_rw_session(self.slot).unwrap()
    }
}

pub(crate) fn pin() -> AuthPin {
    AuthPin::new(PIN.into())
}

/// A new P-256 key pair in the token: public and private.
pub(crate) fn key_pair(session: &Session) -> (ObjectHandle, ObjectHandle) {
    let public = [
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sign(true),
    ];
    session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
        .unwrap()
}

/// The token's one key of `class`.
pub(crate) fn found(session: &Session, class: ObjectClass) -> ObjectHandle {
    session.find_objects(&[Attribute::Class(class)]).unwrap()[0]
}

pub(crate) fn sign(session: &Session, key: ObjectHandle) -> Result<Vec<u8>, RvError> {
    code(session.sign(&Mechanism::Ecdsa, key, &[7; 32]))
}

/// The return code of a call.
pub(crate) fn code<T>(outcome: Result<T, Error>) -> Result<T, RvError> {
    outcome.map_err(|error| match error {
        Error::Pkcs11(code, _) => code,
        other => panic!("{other}"),
    })
}

/// How long `body` takes.
pub(crate) fn timed(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// Text of an environment variable.
pub(crate) fn env(name: &str) -> OsString {
    std::env::var_os(name).unwrap()
}
