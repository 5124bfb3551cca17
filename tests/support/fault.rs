//! A fault module (TEST DOUBLE, `hsm-setup/fault-module`) in front of a real one: rules and exact
//! counts for a test, while the processes under test run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Mesh;

/// How long a counter may take to arrive before the test says that it never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A fault module with a state file of its own. Every process that loads [`FaultModule::module`] is
/// under its rules: its settings lie beside it, so no environment is needed.
#[derive(Debug)]
pub struct FaultModule {
    module: PathBuf,
    state: PathBuf,
}

/// The counters of one moment.
#[derive(Debug)]
pub struct Counts(Value);

/// What was built, once in a run.
struct Built {
    module: PathBuf,
    control: PathBuf,
}

impl FaultModule {
    /// Puts a fault module for the module `real` into `folder`, without rules.
    #[track_caller]
    pub fn new(folder: &Path, real: &Path) -> Self {
        let fault = Self {
            module: folder.join("test-double.so"),
            state: folder.join("test-double.state"),
        };
        fs::copy(&built().module, &fault.module).expect("the module can be copied");
        let settings = format!(
            "module {}\nstate {}\n",
            real.display(),
            fault.state.display()
        );
        fs::write(folder.join("test-double.so.conf"), settings)
            .expect("the settings can be written");
        // The keeper may be another user.
        fault.order("create --mode 666");
        fault
    }

    /// Puts one before the module of `a`'s token.
    #[track_caller]
    pub fn before(mesh: &Mesh) -> Self {
        let real = mesh.tokens("a").module;
        let fault = Self::new(&mesh.path("a"), &real);
        mesh.edit(
            "a/node.toml",
            &format!("module = {real:?}\n"),
            &format!("module = {:?}\n", fault.module),
        );
        fault
    }

    /// Its path: what a configuration names as the PKCS#11 module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// Gives `fault-ctl` an order, such as `fail C_Sign CKR_DEVICE_ERROR times=3`; what it prints.
    #[track_caller]
    pub fn order(&self, order: &str) -> String {
        let mut command = Command::new(&built().control);
        command.arg(&self.state).args(order.split_whitespace());
        let output = command.output().expect("fault-ctl starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{order}: {said}");
        String::from_utf8(output.stdout).expect("fault-ctl prints text")
    }

    /// No rules any more; hung calls go on.
    #[track_caller]
    pub fn clear(&self) {
        self.order("clear");
    }

    /// The counters now.
    #[track_caller]
    pub fn counts(&self) -> Counts {
        let counts = self.order("counts --json");
        Counts(serde_json::from_str(&counts).expect("fault-ctl prints JSON"))
    }

    /// Sessions that the process `pid` has open in the module; `None` when it never initialised it.
    #[track_caller]
    pub fn sessions(&self, pid: u32) -> Option<u64> {
        let counts = self.counts();
        let mut processes = counts.0["processes"].as_array()?.iter().rev();
        processes.find(|process| process["pid"] == pid)?["sessions"].as_u64()
    }

    /// Waits until `counter` of `function` is at least `value`; for a hung call, `hung`.
    #[track_caller]
    pub fn await_count(&self, function: &str, counter: &str, value: u64) {
        let until = Instant::now() + PATIENCE;
        while self.counts().of(function, counter) < value {
            assert!(
                Instant::now() < until,
                "{function}: {counter} never reached {value}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Counts {
    /// How often `function` was called.
    pub fn calls(&self, function: &str) -> u64 {
        self.of(function, "calls")
    }

    /// One counter of a function: `calls`, `size_queries`, `injected`, `errors`, `delayed`, `hung`,
    /// `corrupted` or `overlapped`.
    pub fn of(&self, function: &str, counter: &str) -> u64 {
        self.0["functions"][function][counter].as_u64().unwrap_or(0)
    }

    /// How many signatures were asked for: calls of C_Sign that were not for the size alone.
    pub fn signatures(&self) -> u64 {
        self.of("C_Sign", "calls") - self.of("C_Sign", "size_queries")
    }
}

/// Builds the module and `fault-ctl` into `target/fault-module`, the first time.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-setup/fault-module");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fault-module");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--manifest-path",
        ]);
        cargo
            .arg(source.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target);
        let output = cargo.output().expect("cargo starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "building the fault module: {said}");
        let release = target.join("release");
        Built {
            module: release.join("libfastness_fault.so"),
            control: release.join("fault-ctl"),
        }
    })
}
