//! Controls a fault module (TEST DOUBLE) from outside, through the state file that both map.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fastness_fault::command::Command;
use fastness_fault::{counts, mapping};

const HELP: &str = "\
fault-ctl: rehearse the outages of an HSM. Controls a fault module (a TEST DOUBLE that wraps a real
PKCS#11 module) from outside, at once, while it runs.

Usage: fault-ctl STATE ORDER…          STATE: the file that FASTNESS_FAULT_STATE names

Start
  create [--mode 600] [--replace]      make STATE, without rules; do this before the module starts.
                                       --mode 666 when the module runs as another user.
                                       --replace: a new one; who has the old one mapped keeps it

Faults of a function (C_Sign; a comma list C_Sign,C_SignInit; or `all`: everything that talks to a
slot or token)
  set F delay=20ms [jitter=5ms] [sessions=8]
                                       a call takes 20 ms, ± 5 ms; with sessions=8 at most eight are
                                       served at once, in order of arrival, the others queue: an HSM
                                       that makes 8 / 20 ms = 400 signatures a second
  fail F CODE [times=N] [after=M] [until=C_Login|C_Initialize]
                                       answer CODE (CKR_DEVICE_ERROR, or 0x80000001) instead of
                                       calling the real module; until=C_Login: cured by nothing but
                                       the next successful login, until=C_Initialize: by a fresh start
                                       of the module
  reword F CODE [times=N] [after=M]    call the real module; when that fails, answer CODE
  hang F [times=N] [after=M]           do not return until `release` (or SIGKILL)
  release [F]                          let hung calls go on; no more hang
  corrupt [F] [times=N] [after=M]      flip one bit of the signature (F: C_Sign,C_SignFinal)
  abort F [times=N] [after=M]          end the process by SIGABRT; times=1 unless told otherwise
      after=M: M calls pass unharmed first.  times=N: then N calls are struck (at most 65534);
      times=forever (usual, but for abort): until `clear`. With several functions, each has its own.
      A call that only asks for the size of its output (NULL buffer) is counted, never struck.

Faults of the token
  pin-flags FLAG[,FLAG] | none         what C_GetTokenInfo adds: count-low, final-try, locked,
                                       to-be-changed, keypad (protected authentication path). With
                                       `locked`, C_Login of the user says CKR_PIN_LOCKED
  max-sessions N | none                C_OpenSession says CKR_SESSION_COUNT beyond N (a process and
                                       slot), and C_GetTokenInfo reports N
  idle-death TIME [CODE] | none        a session without a call for TIME is dead: it answers CODE
                                       (CKR_SESSION_HANDLE_INVALID) and never recovers
  logout [CODE|native] [close-sessions]
                                       log the token out behind the application's back: handles of
                                       private objects are dead, and the use of keys answers CODE
                                       (CKR_USER_NOT_LOGGED_IN; native: the real module's own code)
                                       until the next C_Login. close-sessions: sessions are gone too

What there is
  counts [--json]                      exact calls of every function, and who has sessions open
  rules                                the rules in force
  clear [F]                            no rules any more; hung and delayed calls go on
  zero-counts                          all counters to zero

Examples
  fault-ctl /run/fault create
  fault-ctl /run/fault set C_Sign delay=20ms sessions=8
  fault-ctl /run/fault fail C_Sign CKR_DEVICE_ERROR times=3
  fault-ctl /run/fault fail all CKR_DEVICE_REMOVED      # the HSM is unplugged
  fault-ctl /run/fault clear                            # and back
  fault-ctl /run/fault counts
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words
        .iter()
        .any(|word| matches!(*word, "--help" | "-h" | "help"))
    {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&words) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fault-ctl: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[&str]) -> Result<String, String> {
    let [path, order @ ..] = words else {
        return Err("name the state file and say what to do; --help lists the orders".to_owned());
    };
    let path = PathBuf::from(path);
    if let ["create", options @ ..] = order {
        return create(&path, options);
    }
    let state = mapping::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    match order {
        ["counts"] => Ok(counts::table(state)),
        ["counts", "--json"] => Ok(counts::json(state)),
        ["rules"] => Ok(counts::rules(state)),
        order => {
            Command::parse(order)?.apply(state);
            Ok(String::new())
        }
    }
}

fn create(path: &Path, mut options: &[&str]) -> Result<String, String> {
    let (mut mode, mut replace) = (0o600, false);
    while let [option, rest @ ..] = options {
        options = rest;
        match (*option, rest) {
            ("--replace", _) => replace = true,
            ("--mode", [value, rest @ ..]) => {
                mode = u32::from_str_radix(value, 8)
                    .map_err(|error| format!("--mode {value}: {error}"))?;
                options = rest;
            }
            _ => return Err(format!("`{option}`: create takes --mode 600 and --replace")),
        }
    }
    mapping::create(path, mode, replace).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(String::new())
}
