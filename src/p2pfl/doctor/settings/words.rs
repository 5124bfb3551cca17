//! How settings for TLS are written down: in YAML, and in Python.

/// The files, by their settings, and their names in the folder `certificates` of the package.
pub(super) const FILES: [(&str, &str); 5] = [
    ("ca_crt", "ca.crt"),
    ("server_crt", "server.crt"),
    ("server_key", "server.key"),
    ("client_crt", "client.crt"),
    ("client_key", "client.key"),
];

pub(super) const USE_SSL: &str = "use_ssl";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// In quotes.
    Text(String),
    /// As in YAML: `true`, a path.
    Word(String),
    /// What Python makes of it: `True`, a variable, a call.
    Computed(String),
}

/// What a word is to YAML and Python. To YAML as P2PFL reads it, `y` and `n` are text, which is true.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "y" | "n" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The settings that a line is about, and their values: `use_ssl: false` as in YAML; `"USE_SSL": False`,
/// `Settings.ssl.USE_SSL = False` and `USE_SSL: bool = False` as in Python. hsm-setup/p2pfl/to-token reads
/// them so too.
pub(super) fn settings(line: &str) -> impl Iterator<Item = (&'static str, Value)> {
    let comment = line.starts_with('#');
    let line = line.split(" #").next().filter(|_| !comment);
    let known = FILES.iter().map(|(name, _)| *name).chain([USE_SSL]);
    known.filter_map(move |name| Some((name, value(after(line?, name)?)?)))
}

fn is_part_of_a_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// What follows a name.
fn after<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let at = line.to_ascii_lowercase().find(name)?;
    let (before, rest) = (&line[..at], &line[at + name.len()..]);
    let whole = !before.ends_with(is_part_of_a_name) && !rest.starts_with(is_part_of_a_name);
    whole.then_some(rest)
}

/// The value that is given to a name, by what follows the name.
fn value(rest: &str) -> Option<Value> {
    const ENDS: [char; 5] = [',', ';', ')', ']', '}'];
    let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest).trim_start();
    let (rest, python) = match rest.strip_prefix(':').map(str::trim) {
        Some(rest) => {
            let annotated = rest.trim_start_matches(is_part_of_a_name).trim_start();
            match annotated.strip_prefix('=') {
                Some(value) => (value, true),
                None => (rest, false),
            }
        }
        None => (rest.strip_prefix('=')?, true),
    };
    let rest = rest.trim();
    if rest.starts_with('=') {
        return None;
    }
    if let Some(quote) = rest
        .chars()
        .next()
        .filter(|first| ['"', '\''].contains(first))
    {
        let (text, more) = rest[1..].split_once(quote)?;
        let more = more.trim_start();
        let ended = more.is_empty() || more.starts_with(ENDS);
        return match (ended, text) {
            (true, "") => None,
            (true, text) => Some(Value::Text(text.to_owned())),
            (false, _) => Some(Value::Computed(rest.to_owned())),
        };
    }
    if rest.contains('(') {
        return Some(Value::Computed(rest.to_owned()));
    }
    let word = rest.split(ENDS).next()?.trim_end();
    let made = if python { Value::Computed } else { Value::Word };
    (!word.is_empty()).then(|| made(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_p2pfl_writes_them() {
        let text = |text: &str| Value::Text(text.to_owned());
        let word = |word: &str| Value::Word(word.to_owned());
        let computed = |value: &str| Value::Computed(value.to_owned());
        let key = "os.path.join(BASE_DIR, \"certificates\", \"server.key\")";
        for (line, found) in [
            ("    use_ssl: false", vec![(USE_SSL, word("false"))]),
            ("USE_SSL: True  # as always", vec![(USE_SSL, word("True"))]),
            ("USE_SSL   : Y", vec![(USE_SSL, word("Y"))]),
            (
                "Settings.ssl.USE_SSL = False",
                vec![(USE_SSL, computed("False"))],
            ),
            (
                "    USE_SSL: bool = True",
                vec![(USE_SSL, computed("True"))],
            ),
            (
                "Settings.set_from_dict({\"ssl\": {\"USE_SSL\": \"true\"}})",
                vec![(USE_SSL, text("true"))],
            ),
            (
                "ssl: {server_key: /etc/a.key, use_ssl: off}",
                vec![("server_key", word("/etc/a.key")), (USE_SSL, word("off"))],
            ),
            (
                "    server_key: '/etc/p2pfl/server.key'",
                vec![("server_key", text("/etc/p2pfl/server.key"))],
            ),
            (
                "  \"CA_CRT\": \"/etc/p2pfl/ca.crt\",",
                vec![("ca_crt", text("/etc/p2pfl/ca.crt"))],
            ),
            (
                &format!("    SERVER_KEY: str = {key}"),
                vec![("server_key", computed(key))],
            ),
            (
                "SERVER_KEY = FOLDER",
                vec![("server_key", computed("FOLDER"))],
            ),
            (
                "CA_CRT = \"/etc\" + NAME",
                vec![("ca_crt", computed("\"/etc\" + NAME"))],
            ),
            ("# use_ssl: false", vec![]),
            ("if Settings.ssl.USE_SSL == True", vec![]),
            ("may_use_ssl: true", vec![]),
            ("ssl:", vec![]),
            ("use_ssl:", vec![]),
            ("nodes: 2", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(settings(line).collect::<Vec<_>>(), found, "{line}");
        }
    }
}
