//! P2PFL's settings for TLS, and the files that they name. P2PFL decides by which files exist: with one of
//! them missing it speaks plaintext, and says nothing.

mod words;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::fault::Fault;
use words::{FILES, USE_SSL, Value, settings, truth};

/// A file of settings is at most so long.
const LONGEST: u64 = 4 << 20;

/// What the settings say, and where.
#[derive(Debug, Default)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, Said>,
    /// Folder of the files that no setting names.
    defaults: Option<PathBuf>,
    /// What cannot be told of the settings without running them.
    doubts: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    value: Value,
    file: PathBuf,
    line: usize,
}

impl Settings {
    /// Reads the files; what a later one says counts. Other lines than those about TLS are passed by.
    pub(super) fn read(files: &[PathBuf], package: Option<&Path>) -> io::Result<Self> {
        let mut settings = Self {
            values: BTreeMap::new(),
            doubts: Vec::new(),
            defaults: package.map(|package| package.join("certificates")),
        };
        if let Some(package) = package
            && !package.join("settings.py").is_file()
        {
            let problem = format!("{} is not P2PFL's package", package.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, problem));
        }
        for file in files {
            let explained = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            };
            if std::fs::metadata(file).map_err(explained)?.len() > LONGEST {
                return Err(explained(io::ErrorKind::FileTooLarge.into()));
            }
            settings.take(&std::fs::read_to_string(file).map_err(explained)?, file);
        }
        Ok(settings)
    }

    fn take(&mut self, text: &str, file: &Path) {
        let mut prose = Prose::default();
        for (index, line) in text.lines().enumerate() {
            if prose.is(line) {
                continue;
            }
            for (name, value) in settings(line) {
                if is_default(name, &value) {
                    self.values.remove(name);
                    continue;
                }
                let said = Said {
                    value,
                    file: file.to_owned(),
                    line: index + 1,
                };
                self.doubt(name, &said, line);
                self.values.insert(name, said);
            }
        }
    }

    /// Notes why it cannot be told whether what is `said` in this line counts.
    fn doubt(&mut self, name: &str, said: &Said, line: &str) {
        if name != USE_SSL {
            return;
        }
        let before = self.values.get(name).filter(|it| it.file == said.file);
        let problem = match before {
            Some(before) if before.value != said.value => {
                format!("line {} says otherwise: which one counts?", before.line)
            }
            _ if is_conditional(line, &said.value) => {
                "only Python can tell whether this is run".to_owned()
            }
            _ => return,
        };
        let fault = Fault::new(
            "ssl.use_ssl",
            problem,
            "say it once, at the beginning of a line or under `ssl`",
        );
        let file = said.file.display().to_string();
        self.doubts.push(fault.in_file(file).at_line(said.line));
    }

    /// The file that P2PFL takes for a setting; `None` when that cannot be told.
    fn file(&self, name: &str) -> Option<PathBuf> {
        match self.values.get(name).map(|said| &said.value) {
            Some(Value::Text(path) | Value::Word(path)) => Some(PathBuf::from(path)),
            Some(Value::Computed(_)) => None,
            None => {
                let (_, default) = FILES.iter().find(|(setting, _)| *setting == name)?;
                Some(self.defaults.as_ref()?.join(default))
            }
        }
    }

    /// The setting's place, for a fault about it.
    fn placed(&self, name: &str, fault: Fault) -> Fault {
        match self.values.get(name) {
            Some(said) => fault
                .in_file(said.file.display().to_string())
                .at_line(said.line),
            None => fault,
        }
    }

    pub(super) fn examine(&self, findings: &mut Findings) {
        let files: BTreeMap<&str, Option<PathBuf>> = FILES
            .iter()
            .map(|(name, _)| (*name, self.file(name)))
            .collect();
        let fault = |problem, mend| self.placed(USE_SSL, Fault::new("ssl.use_ssl", problem, mend));
        match self.values.get(USE_SSL).map(|said| &said.value) {
            // P2PFL's default.
            None => self.plaintext(&files, findings),
            Some(Value::Word(word) | Value::Computed(word)) => match truth(word) {
                Some(true) => self.plaintext(&files, findings),
                Some(false) if !self.doubts.is_empty() => self.plaintext(&files, findings),
                Some(false) => findings.good("use_ssl: false: plaintext as it should be beside Fastness, if nobody else reaches it"),
                None => {
                    let problem = format!("{word:?} is neither true nor false");
                    findings.faults.push(fault(problem, "write true or false"));
                }
            },
            Some(Value::Text(text)) => {
                if truth(text) != Some(true) {
                    let problem = format!("{text:?} is text, and P2PFL takes any text for true");
                    let mend = "write true or false, without quotes";
                    findings.faults.push(fault(problem, mend));
                }
                self.plaintext(&files, findings);
            }
        }
        findings.faults.extend(self.doubts.iter().cloned());
        self.examine_keys(findings);
    }

    /// Says which private keys are in files.
    pub(super) fn examine_keys(&self, findings: &mut Findings) {
        for name in ["server_key", "client_key"] {
            if let Some(path) = self.file(name) {
                self.key(name, &path, findings);
            }
        }
        let authority = self.file("ca_crt");
        let folder = authority.as_deref().and_then(Path::parent);
        if let Some(key) = folder.map(|folder| folder.join("ca.key"))
            && key.exists()
        {
            findings.faults.push(Fault::new(
                "ca.key",
                format!(
                    "{} is the authority's own key, on a host that needs it for nothing; P2PFL's script encrypts it with a passphrase that is in its source",
                    key.display()
                ),
                "take it away; better, let `fastness ca` issue from a key in a token, and trust this authority no more",
            ));
        }
    }

    /// Says when P2PFL speaks plaintext although TLS is switched on.
    fn plaintext(&self, files: &BTreeMap<&str, Option<PathBuf>>, findings: &mut Findings) {
        let mut missing = Vec::new();
        for (name, path) in files {
            match path {
                Some(path) if !path.is_file() => missing.push((*name, path)),
                Some(_) => {}
                None => findings.faults.push(self.untold(name)),
            }
        }
        let mend = "bring the file; or, beside Fastness, set use_ssl to false and let it listen on a loopback address or in a network namespace of its own (hsm-setup/own-network)";
        for (name, path) in &missing {
            let what = match *name {
                "server_crt" => "P2PFL listens and dials in plaintext, without a warning",
                "server_key" => "P2PFL listens in plaintext, without a warning",
                _ => "P2PFL reaches nobody",
            };
            let problem = format!("use_ssl is on and {} is not there: {what}", path.display());
            let fault = Fault::new(format!("ssl.{name}"), problem, mend);
            findings.faults.push(self.placed(name, fault));
        }
        let told = files.values().all(Option::is_some);
        if missing.is_empty() && told && self.doubts.is_empty() {
            findings.good("use_ssl: on, and every file is there");
        }
    }

    /// Why it cannot be told which file P2PFL takes for a setting.
    fn untold(&self, name: &str) -> Fault {
        let (problem, mend) = match self.values.get(name).map(|said| &said.value) {
            Some(Value::Computed(value)) => (
                format!("only Python can tell which file {value} is"),
                "write its path, in quotes",
            ),
            _ => (
                "no setting names it, and where P2PFL is installed was not said".to_owned(),
                "name the folder of the package: --package …/site-packages/p2pfl",
            ),
        };
        self.placed(name, Fault::new(format!("ssl.{name}"), problem, mend))
    }

    /// Says what is wrong with a key in a file.
    fn key(&self, name: &str, path: &Path, findings: &mut Findings) {
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let problem = format!("cannot look at {}: {error}", path.display());
                findings.faults.push(Fault::new(
                    format!("ssl.{name}"),
                    problem,
                    "run the doctor as root",
                ));
                return;
            }
        };
        let mode = metadata.mode() & 0o7777;
        let others = match mode & 0o077 {
            0 => "whoever runs code as this user copies it",
            _ => "other users of this host can read or change it",
        };
        let fault = Fault::new(
            format!("ssl.{name}"),
            format!(
                "{} is a private key in a file, of user {}, mode {mode:04o}: {others}",
                path.display(),
                metadata.uid()
            ),
            "move this node to keys in a token: hsm-setup/p2pfl/to-token; until then chmod 600",
        );
        findings.faults.push(self.placed(name, fault));
    }
}

/// Whether Python may pass by an assignment, or make it later: in a block, where a class of settings would have its
/// type beside it.
fn is_conditional(line: &str, value: &Value) -> bool {
    let indented = line.starts_with([' ', '\t']);
    let annotated = line
        .split('=')
        .next()
        .is_some_and(|name| name.contains(':'));
    indented && !annotated && matches!(value, Value::Computed(_))
}

/// Text that only looks like settings: Python's between three quotes, YAML's block scalars.
#[derive(Debug, Default)]
struct Prose {
    quotes: Option<&'static str>,
    /// How far the key of a block scalar is indented.
    block: Option<usize>,
}

impl Prose {
    /// Whether `line`, the next one, is some.
    fn is(&mut self, line: &str) -> bool {
        if let Some(quotes) = self.quotes {
            if line.contains(quotes) {
                self.quotes = None;
            }
            return true;
        }
        let opens = |quotes: &&str| line.matches(quotes).count() % 2 == 1;
        self.quotes = ["\"\"\"", "'''"].into_iter().find(opens);
        let indent = line.len() - line.trim_start().len();
        let within = self
            .block
            .is_some_and(|key| line.trim().is_empty() || indent > key);
        if within {
            return true;
        }
        let ends = [": |", ": >", ": |-", ": >-", ": |+", ": >+"];
        let begins = ends.iter().any(|end| line.trim_end().ends_with(end));
        self.block = begins.then_some(indent);
        self.quotes.is_some()
    }
}

/// Whether P2PFL's own settings.py says it: a file in the folder `certificates` of the package.
fn is_default(name: &str, value: &Value) -> bool {
    let said = |file| format!("os.path.join(BASE_DIR, \"certificates\", \"{file}\")");
    FILES
        .iter()
        .any(|(setting, file)| *setting == name && *value == Value::Computed(said(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2pfls_own_settings_are_its_defaults() {
        let mut text = String::from("    USE_SSL: bool = True\n");
        for (name, file) in FILES {
            let name = name.to_uppercase();
            text += &format!(
                "    {name}: str = os.path.join(BASE_DIR, \"certificates\", \"{file}\")\n"
            );
        }
        let present = ["ca.crt", "server.crt", "client.crt", "client.key"];
        assert_eq!(faults(&text, &present), faults("", &present));
    }

    #[test]
    fn what_only_python_can_tell_is_no_path_and_text_is_true() {
        let found = faults("SERVER_KEY = os.path.join(HOME, \"server.key\")", &ALL);
        let untold = "only Python can tell which file os.path.join(HOME, \"server.key\") is";
        assert!(found.concat().contains(untold), "{found:?}");
        assert!(!found.concat().contains("is not there"), "{found:?}");
        let found = faults("use_ssl: \"false\"", &ALL);
        assert!(
            found[0].contains("P2PFL takes any text for true"),
            "{found:?}"
        );
    }

    #[test]
    fn false_that_may_not_count_is_no_false() {
        for text in [
            "settings:\n  ssl:\n    use_ssl: true\nother:\n  use_ssl: false\n",
            "notes: |\n  use_ssl: false\n",
            "\"\"\"\nSettings.ssl.USE_SSL = False\n\"\"\"\n",
            "if debug:\n    Settings.ssl.USE_SSL = False\n",
        ] {
            let found = faults(text, &["ca.crt"]);
            assert!(found.concat().contains("plaintext"), "{text}: {found:?}");
        }
        for text in [
            "settings:\n  ssl:\n    use_ssl: false\n",
            "class SSL:\n    USE_SSL: bool = False\n",
            "\"\"\"Ours.\"\"\"\nSettings.ssl.USE_SSL = False\n",
        ] {
            let found = faults(text, &["ca.crt"]);
            assert_eq!(found, [""; 0], "{text}");
        }
    }

    /// Findings about settings `text` with the files of `present` in the package.
    fn faults(text: &str, present: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let certificates = folder.path().join("certificates");
        std::fs::create_dir(&certificates).unwrap();
        for file in present {
            std::fs::write(certificates.join(file), "").unwrap();
        }
        let mut settings = Settings {
            defaults: Some(certificates),
            ..Settings::default()
        };
        settings.take(text, Path::new("experiment.yaml"));
        let mut findings = Findings::default();
        settings.examine(&mut findings);
        let folder = folder.path().display().to_string();
        let said = |fault: &Fault| fault.to_string().replace(&folder, "");
        findings.faults.iter().map(said).collect()
    }

    const ALL: [&str; 5] = [
        "ca.crt",
        "server.crt",
        "server.key",
        "client.crt",
        "client.key",
    ];

    #[test]
    fn a_missing_file_is_plaintext() {
        for (absent, word) in [
            ("server.key", "listens in plaintext"),
            ("server.crt", "listens and dials in plaintext"),
            ("client.key", "reaches nobody"),
            ("ca.crt", "reaches nobody"),
        ] {
            let present: Vec<_> = ALL.into_iter().filter(|file| *file != absent).collect();
            for text in ["", "use_ssl: true", "use_ssl: True"] {
                let found = faults(text, &present);
                let file = format!("/certificates/{absent} is not there");
                let about = |fault: &&String| fault.contains(&file) && fault.contains(word);
                assert_eq!(found.iter().filter(about).count(), 1, "{absent}: {found:?}");
            }
            let found = faults("use_ssl: false", &present);
            assert!(!found.concat().contains("plaintext"), "{found:?}");
        }
    }

    #[test]
    fn keys_in_files_are_named_and_nothing_is_said_of_nothing() {
        let found = faults("use_ssl: true", &ALL);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("server.key is a private key in a file"));
        let found = faults("use_ssl: false", &["ca.crt", "ca.key"]);
        assert!(found[0].contains("the authority's own key"), "{found:?}");
        assert_eq!(faults("use_ssl: false", &["ca.crt"]), [""; 0]);
        assert!(faults("use_ssl: perhaps", &[])[0].starts_with("experiment.yaml:1: "));
    }
}
