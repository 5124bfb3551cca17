use super::*;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape matters")]
struct Spec {
    listen: String,
    port: Option<u16>,
    #[serde(default)]
    token: Vec<Token>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape matters")]
struct Token {
    module: String,
    slots: Option<Vec<u8>>,
}

fn faults(text: &str) -> Vec<(usize, String, String)> {
    let faults = parse::<Spec>(text, "node.toml").unwrap_err();
    assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
    faults
        .into_iter()
        .map(|fault| (fault.line.unwrap_or(0), fault.key, fault.mend))
        .collect()
}

#[test]
fn a_good_text_is_read() {
    assert!(parse::<Spec>("listen = 'x'\n[[token]]\nmodule = 'm'\n", "node.toml").is_ok());
}

#[test]
fn all_unknown_keys_are_reported_at_once_with_the_nearest_known_one() {
    let found = faults(
        "lisen = 'hunter2'\nlisten = 'x'\n[[token]]\nmodule = 'm'\n[[token]]\nmodul = 'hunter2'\nmodule = 'm'\nzzzzzz = 1\n",
    );
    assert_eq!(
        found,
        [
            (1, "lisen".into(), "did you mean `listen`?".into()),
            (6, "token[1].modul".into(), "did you mean `module`?".into()),
            (
                8,
                "token[1].zzzzzz".into(),
                "known here: module, slots".into()
            ),
        ]
    );
}

#[test]
fn a_wrong_type_is_reported_without_the_value() {
    let found =
        faults("listen = 4\nport = 'hunter2'\n[[token]]\nmodule = 'm'\nslots = [1, 'hunter2']\n");
    assert_eq!(
        found,
        [
            (1, "listen".into(), "expected a string".into()),
            (
                2,
                "port".into(),
                "expected a whole number from 0 to 65535".into()
            ),
            (
                5,
                "token[0].slots[1]".into(),
                "expected a whole number from 0 to 255".into()
            ),
        ]
    );
}

#[test]
fn a_fault_that_is_found_later_gets_its_place_from_its_key() {
    let text = "listen = 'x'\n[[token]]\nmodule = 'm'\n[token.server]\nkey = 'k'\n";
    let place = |key: &str| placed(Fault::new(key, "bad", ""), text, "node.toml").line;
    assert_eq!(place("listen"), Some(1));
    assert_eq!(place("token[0].module"), Some(3));
    assert_eq!(place("token[0].server.key"), Some(5));
    assert_eq!(place("token[0].pin"), Some(2), "its table");
    assert_eq!(place("admin"), None);
    let elsewhere = Fault::new("listen", "bad", "").in_file("peers.toml");
    assert_eq!(placed(elsewhere.clone(), text, "node.toml"), elsewhere);
}

#[test]
fn a_missing_key_names_its_table() {
    let found = faults("listen = 'x'\n[[token]]\nmodule = 'm'\n[[token]]\n");
    assert_eq!(found, [(4, "token[1].module".into(), "add it".into())]);
}

#[test]
fn all_missing_keys_are_named_at_once_and_nothing_in_a_missing_table() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Whole {
        listen: Spanned<Vec<Spanned<String>>>,
        port: Spanned<u16>,
        token: Vec<Spanned<Part>>,
        on: bool,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Part {
        module: Spanned<std::path::PathBuf>,
        key: Spanned<Token>,
        last: Spanned<String>,
    }
    let keys = |text: &str| {
        let faults = parse::<Whole>(text, "node.toml").unwrap_err();
        let of = |fault: Fault| format!("{}:{}", fault.line.unwrap_or(0), fault.key);
        faults.into_iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["1:listen", "1:port", "1:token", "1:on"]);
    let text = "port = 'x'\n[[token]]\n[[token]]\nlast = 4\nkey = {}\nmore = 1\n";
    let mut found = keys(text);
    found.sort();
    assert_eq!(
        found,
        [
            "1:listen",
            "1:on",
            "1:port",
            "2:token[0].key",
            "2:token[0].last",
            "2:token[0].module",
            "3:token[1].module",
            "4:token[1].last",
            "5:token[1].key.module",
            "6:token[1].more",
        ]
    );
}

#[test]
fn what_is_left_is_read_with_misspelt_keys_as_they_are_meant_and_something_for_missing_ones() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        listen: Spanned<String>,
        module: Spanned<String>,
    }
    let text = "modul = 'm'\n";
    let mut faults = Vec::new();
    let whole = parse_collecting::<Whole>(text, "node.toml", &mut faults).unwrap();
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["modul", "listen"]);
    assert_eq!(whole.module.get_ref(), "m");
    assert!(is_in_text(text, whole.module.span().start));
    assert!(!is_in_text(text, whole.listen.span().start));
}

#[test]
fn a_syntax_error_has_its_line_and_not_its_text() {
    let found = faults("listen = 'x'\npin = hunter2\n");
    assert_eq!(found.first().map(|fault| fault.0), Some(2));
    let found = faults("listen = 'x'\nlisten = 'hunter2'\n");
    assert_eq!(found.first().map(|fault| fault.0), Some(2));
}
