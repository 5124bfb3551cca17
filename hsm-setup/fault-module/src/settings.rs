//! The settings file: which module is wrapped, where the shared state is, and rules to start with.

use std::ffi::{CStr, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::command::Command;

/// Names the settings file.
pub(crate) const CONF: &str = "FASTNESS_FAULT_CONF";
/// Names the state file; it has precedence over the settings file's `state`.
pub(crate) const STATE: &str = "FASTNESS_FAULT_STATE";

/// What a settings file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The module to wrap.
    pub(crate) module: PathBuf,
    /// The shared state; without it there are the rules below, for this process alone.
    pub(crate) state: Option<PathBuf>,
    /// Rules for a state that has seen no settings yet.
    pub(crate) rules: Vec<Command>,
}

impl Settings {
    /// Reads the file that [`CONF`] names, or else the one beside this library that is called as it
    /// is, with `.conf` behind.
    pub(crate) fn read() -> Result<Self, String> {
        let file = match std::env::var_os(CONF) {
            Some(file) => PathBuf::from(file),
            None => {
                let mut beside = own_path()
                    .ok_or(format!("{CONF} is not set"))?
                    .into_os_string();
                beside.push(".conf");
                PathBuf::from(beside)
            }
        };
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{CONF}: {}: {error}", file.display()))?;
        let mut settings =
            Self::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        if let Some(state) = std::env::var_os(STATE) {
            settings.state = Some(PathBuf::from(state));
        }
        Ok(settings)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (mut module, mut state, mut rules) = (None, None, Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or("").trim();
            let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            match verb {
                "" => {}
                "module" => module = Some(PathBuf::from(rest.trim())),
                "state" => state = Some(PathBuf::from(rest.trim())),
                _ => {
                    let words: Vec<_> = line.split_whitespace().collect();
                    let rule = Command::parse(&words)
                        .map_err(|error| format!("line {number}: {error}"))?;
                    rules.push(rule);
                }
            }
        }
        let module: PathBuf =
            module.ok_or("there is no line `module /path/of/the/real/module.so`")?;
        if !module.is_absolute() {
            return Err(format!(
                "`module {}`: not an absolute path",
                module.display()
            ));
        }
        Ok(Self {
            module,
            state,
            rules,
        })
    }
}

/// Where this library was loaded from.
pub(crate) fn own_path() -> Option<PathBuf> {
    let mut place = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here: *const c_void = (own_path as fn() -> Option<PathBuf>) as *const c_void;
    // SAFETY: an address of ours and a place to write to.
    let found = unsafe { libc::dladdr(here, &raw mut place) };
    if found == 0 || place.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr found the object; its name lives as long as it is loaded.
    let name = unsafe { CStr::from_ptr(place.dli_fname) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_a_module_a_state_and_rules() {
        let settings = Settings::parse(
            "# rehearsal\nmodule /a b.so\nstate /s\n\nset C_Sign delay=20ms # slow\n",
        );
        let rule = Command::parse(&["set", "C_Sign", "delay=20ms"]).unwrap();
        assert_eq!(
            settings,
            Ok(Settings {
                module: "/a b.so".into(),
                state: Some("/s".into()),
                rules: vec![rule]
            })
        );
    }

    #[test]
    fn faulty_settings_are_refused_with_their_line() {
        assert!(Settings::parse("").is_err());
        assert!(Settings::parse("module relative.so").is_err());
        assert!(
            Settings::parse("module /a\nexplode")
                .unwrap_err()
                .contains("line 2")
        );
    }
}
