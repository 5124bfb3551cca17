//! The source keeps to the design's rooms, and what the documents show is true.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::files::write_private;
use crate::support::{FASTNESS, Mesh, Node, Options, free_port, root, run};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
    {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}

/// Files outside `src/{room}` that use `word` in code.
fn strangers(room: &str, word: &str) -> Vec<String> {
    let own = [
        root().join("src").join(room),
        root().join("src").join(format!("{room}.rs")),
    ];
    let uses = |text: &str| {
        text.lines()
            .map(str::trim)
            .any(|line| !line.starts_with("//") && line.contains(word))
    };
    sources(&root().join("src"))
        .into_iter()
        .filter(|path| !own.iter().any(|own| path.starts_with(own)))
        .filter(|path| uses(&fs::read_to_string(path).expect("source")))
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn only_the_token_room_uses_cryptoki() {
    assert_eq!(strangers("token", "cryptoki::"), [""; 0]);
}

#[test]
fn only_a_login_sees_a_pin() {
    assert_eq!(strangers("secret", "secrecy::"), [""; 0]);
    assert_eq!(strangers("token", ".expose_for_login("), [""; 0]);
    // A PIN that was typed for `fastness unlock` goes to the keeper in a pipe.
    assert_eq!(strangers("cli/unlock", ".into_pipe("), [""; 0]);
}

#[test]
fn only_the_tls_room_uses_rustls() {
    // Both crates; `.rustls` would be a name of ours.
    assert_eq!(strangers("tls", "rustls::"), [""; 0]);
}

#[test]
fn nothing_points_at_the_node_but_the_command_line() {
    let found: Vec<_> = strangers("node", "crate::node")
        .into_iter()
        .filter(|file| !file.ends_with("src/cli/mod.rs"))
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn only_the_resolver_asks_nameservers() {
    for word in ["to_socket_addrs", "lookup_host", "getaddrinfo("] {
        assert_eq!(strangers("resolver", word), [""; 0]);
    }
}

/// They panic when nobody can be written to.
#[test]
fn nothing_prints_with_the_macros() {
    let found: Vec<_> = ["print!(", "println!("]
        .into_iter()
        .flat_map(|word| strangers("other.rs", word))
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_policy_decides_over_bytes_alone() {
    let files = sources(&root().join("src/policy"));
    assert!(files.len() > 5);
    for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(file).expect("source");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for word in [
            "std::fs",
            "std::io",
            "std::env",
            "std::process",
            "std::thread",
            "std::os",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "ToSocketAddrs",
            "::now()",
            "tokio",
            "rustix",
            "nix::",
            "tracing",
            "rand::",
            "println!",
        ] {
            let found = code
                .lines()
                .map(str::trim)
                .find(|line| !line.starts_with("//") && line.contains(word));
            assert_eq!(found, None, "{} uses {word}", file.display());
        }
    }
}

#[test]
fn only_the_sandbox_confines() {
    for word in ["seccompiler::", "landlock::"] {
        assert_eq!(strangers("sandbox", word), [""; 0]);
    }
}

#[test]
fn policy_and_secret_know_no_tls_and_no_grpc() {
    for room in ["policy", "secret", "keeper"] {
        for file in sources(&root().join("src").join(room)) {
            let text = fs::read_to_string(&file).expect("source");
            for word in ["rustls", "tonic", "crate::node", "crate::tls"] {
                let found = text
                    .lines()
                    .map(str::trim)
                    .find(|line| !line.starts_with("//") && line.contains(word));
                assert_eq!(found, None, "{} uses {word}", file.display());
            }
        }
    }
}

#[test]
fn nothing_reads_a_private_key_file_or_signs_in_software() {
    let files = sources(&root().join("src"));
    let read = |file: &PathBuf| fs::read_to_string(file).expect("source");
    // Modules that are compiled for tests alone.
    let doubles: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = read(file);
            let names = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
                let line = rest.lines().next()?.trim().strip_suffix(';')?;
                Some(line.rsplit(' ').next()?.to_owned())
            });
            names.collect::<Vec<_>>()
        })
        .collect();
    for file in files {
        let text = read(&file);
        // What a file's tests do is their own.
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let tests = file.with_extension("").components().any(|part| {
            doubles
                .iter()
                .any(|double| part.as_os_str() == double.as_str())
        });
        for word in [
            "PrivateKeyDer",
            "from_pkcs8",
            "PrivatePkcs",
            "EcdsaKeyPair",
            "RsaKeyPair",
            "Ed25519KeyPair",
            "rcgen",
        ] {
            let found = code
                .lines()
                .map(str::trim)
                .find(|line| !line.starts_with("//") && line.contains(word));
            assert!(tests || found.is_none(), "{}: {found:?}", file.display());
        }
    }
}

fn help(arguments: &[&str]) -> String {
    run(Command::new(FASTNESS).args(arguments).arg("--help"))
}

/// Every command path, `ca issue` and the like, from the help texts themselves.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut index = 0;
    while let Some(path) = found.get(index).cloned() {
        index += 1;
        let arguments: Vec<_> = path.iter().map(String::as_str).collect();
        let text = help(&arguments);
        let Some((_, list)) = text.split_once("\nCommands:\n") else {
            continue;
        };
        let lines = list
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with(' '));
        for line in lines.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
            let name = line.split_whitespace().next().expect("a name");
            if name != "help" {
                found.push([path.clone(), vec![name.to_owned()]].concat());
            }
        }
    }
    found
}

#[test]
fn every_command_and_flag_is_in_the_manual() {
    let page = run(Command::new(FASTNESS).arg("man")).replace("\\-", "-");
    let commands = commands();
    assert!(
        commands.len() > 18,
        "the help texts list the commands: {commands:?}"
    );
    for path in commands {
        let arguments: Vec<_> = path.iter().map(String::as_str).collect();
        let heading = path.join(" ").to_uppercase();
        assert!(page.contains(&heading), "{heading} has no section");
        for word in help(&arguments).split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            if word.starts_with("--") && word.len() > 3 {
                assert!(page.contains(word), "{path:?} {word} is not in the manual");
            }
        }
    }
}

#[test]
fn completions_come_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Command::new(FASTNESS).args(["completions", shell]));
        assert!(
            script.contains("fastness") && script.contains("spki-pin"),
            "{shell}"
        );
    }
    run(Command::new("bash").args(["-c", &format!("eval \"$({FASTNESS} completions bash)\"")]));
}

#[test]
fn the_sample_policy_and_configuration_are_good() {
    let sample = fs::read_to_string(root().join("policies/peers.toml")).expect("the sample");
    let policy =
        fastness::policy::PeerPolicy::parse(&sample).expect("the sample policy has no fault");
    assert!(policy.peers().len() >= 2);
    // The sample configuration as it stands, on this test's token and ports.
    let mesh = Mesh::new();
    let token = mesh.tokens("a");
    let text = fs::read_to_string(root().join("policies/node.toml")).expect("the sample");
    let (name, value) = token.environment.iter().next().expect("one variable");
    let text = text
        .replace(
            "spiffe://mesh.example/node/a",
            "spiffe://test.example/node/a",
        )
        .replace("0.0.0.0:7443", &format!("127.0.0.1:{}", mesh.ports["a"]))
        .replace(
            "/usr/lib/softhsm/libsofthsm2.so",
            &token.module.display().to_string(),
        )
        .replace("pkcs11:token=node-a", "pkcs11:token=a")
        .replace("file:user-pin", "file:token/pin")
        .replace(
            "SOFTHSM2_CONF = \"softhsm2.conf\"",
            &format!("{name} = {value:?}"),
        )
        .replace("\"ca.pem\"", "\"../ca/authority/ca.pem\"");
    write_private(&mesh.path("a/node.toml"), &text);
    let output = mesh.check("a");
    assert!(output.status.success(), "{}", crate::support::said(&output));
}

/// The indented block of README.md that begins after `before`.
fn block(before: &str) -> String {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, rest) = text.split_once(before).expect("the block's beginning");
    rest.lines()
        .skip_while(|line| !line.starts_with("    "))
        .take_while(|line| line.starts_with("    ") || line.is_empty())
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

#[test]
fn a_newcomer_gets_from_nothing_to_a_running_node_with_what_the_readme_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let steps = block("this file is):\n");
    let (before, after) = steps.split_once("fastness check").expect("it checks");
    assert!(
        after
            .trim_end()
            .ends_with("fastness run   --config node.toml")
    );
    // The samples name ports that anybody may have here.
    let port = free_port();
    let edit =
        format!("sed -i -e 's/0.0.0.0:7443/127.0.0.1:{port}/' -e '/^connect = /d' node.toml\n");
    let bin = Path::new(FASTNESS).parent().expect("a folder").display();
    run(Command::new("bash")
        .args([
            "-euc",
            &format!("{before}{edit}fastness check --config node.toml"),
        ])
        .current_dir(folder.path())
        .env(
            "PATH",
            format!("{bin}:{}", std::env::var("PATH").expect("a path")),
        )
        .env("REPOSITORY", root()));
    let options = Options {
        environment: vec![(
            "SOFTHSM2_CONF".into(),
            folder.path().join("softhsm2.conf").display().to_string(),
        )],
        ..Options::default()
    };
    let node = Node::spawn("node-a", folder.path(), port, options);
    node.wait_ready();
    assert_eq!(node.status()["node_id"], "spiffe://mesh.example/node/a");
}

#[test]
fn the_first_steps_of_the_help_are_those_of_the_readme() {
    /// The commands of a text, without what follows their names.
    fn commands(text: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for line in text.lines().map(str::trim) {
            let Some(line) = line.strip_prefix("fastness ") else {
                continue;
            };
            let words = line
                .split_whitespace()
                .take_while(|word| !word.starts_with('-'));
            found.push(words.collect::<Vec<_>>().join(" "));
        }
        found
    }
    let help = help(&[]);
    let (_, steps) = help.split_once("First steps").expect("it has them");
    let steps = steps.split("Exit codes").next().expect("what is before");
    assert_eq!(commands(steps), commands(&block("this file is):\n")));
}

#[test]
fn tests_that_only_root_can_run_are_started_as_root() {
    let list = fs::read_to_string(root().join("tests/needs-root")).expect("the list");
    let listed: Vec<&str> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut names = Vec::new();
    for file in sources(&root().join("tests")) {
        let text = fs::read_to_string(&file).expect("source");
        let path = file.strip_prefix(root().join("tests")).expect("in there");
        let module = path.with_extension("").display().to_string();
        let module = module.replace('/', "::");
        // Networks are made by root alone, and here for all tests of a file.
        let networks =
            text.contains(&format!("{}::new(", "Network")) && !module.starts_with("support::");
        let (mut name, mut is_test) = (String::new(), false);
        for line in text.lines() {
            is_test |= line == "#[test]";
            let mut needs_root = false;
            if let Some(rest) = line.strip_prefix("fn ") {
                name = format!("{module}::{}", rest.split('(').next().unwrap_or_default());
                names.push(name.clone());
                needs_root = networks && is_test;
                is_test = false;
            }
            let statement = line.trim().trim_start_matches("crate::support::");
            needs_root |= statement.starts_with("as_root(");
            let known = listed.iter().any(|part| name.contains(part));
            assert!(known || !needs_root, "{name} is not in tests/needs-root");
        }
    }
    for part in listed {
        let used = names.iter().any(|name| name.contains(part));
        assert!(
            used,
            "tests/needs-root names {part}, and there is no such test"
        );
    }
}

#[test]
fn the_documents_name_only_files_that_exist() {
    for document in ["README.md", "SECURITY.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        for word in text.split(['`', '(', ')', ' ', '\n', ',']) {
            let known = [
                "hsm-setup/",
                "tests/",
                "src/",
                "policies/",
                "proto/",
                "examples/",
                "fuzz/",
            ];
            if known
                .iter()
                .any(|folder| word.trim_start_matches("./").starts_with(folder))
                && !word.contains(['*', '<', '…'])
            {
                let path = word
                    .trim_start_matches("./")
                    .trim_end_matches(['.', ':', ';']);
                assert!(root().join(path).exists(), "{document} names {path}");
            }
        }
    }
}
