//! A program on a terminal of its own (script(1) of util-linux): what it shows is read, what somebody types
//! is written.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::eventually;

/// Killed when dropped, and the program with it.
pub struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a line of the shell, one program, in the foreground of a new terminal that echoes.
    pub fn start(line: &str) -> Self {
        let mut script = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "script"])
            .args(["--quiet", "--return", "--flush", "--echo", "always"])
            .arg("--command")
            .arg(format!("exec setpriv --pdeathsig KILL -- {line}"))
            .arg("/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is part of util-linux");
        let keys = script.stdin.take().expect("piped");
        let mut screen = script.stdout.take().expect("piped");
        let shown = Arc::new(Mutex::new(String::new()));
        let writing = shown.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                writing.lock().unwrap().push_str(&text);
            }
        });
        Self {
            script,
            keys,
            shown,
        }
    }

    /// All that it has shown.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until it shows `needle`.
    #[track_caller]
    pub fn wait(&self, needle: &str) {
        eventually(&format!("the terminal shows {needle:?}"), || {
            self.shown().contains(needle).then_some(())
        });
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.keys, "{line}").expect("the terminal is there");
        self.keys.flush().expect("the terminal is there");
    }

    /// Waits until the program has ended.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        eventually("the program on the terminal ends", || {
            self.script.try_wait().expect("our child")
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
        if std::thread::panicking() {
            eprintln!("--- the terminal ---\n{}", self.shown());
        }
    }
}
