//! Whatever an operator gets wrong about a secret, it is not repeated: not on a terminal, in the
//! log, as JSON, nor to somebody who loads the configuration as a library.

use std::process::{Command, Output};

use fastness::config::Config;

use crate::support::files::write_private;
use crate::support::{FASTNESS, Mesh};

/// Two user PINs that stand nowhere else: letters and digits, and digits alone.
const SECRETS: [&str; 2] = ["q7ZkW2pXr9", "8421357690"];

/// What may become of `pin = "file:token/pin"` by mistake; `@` is the PIN.
const PIN: [&str; 34] = [
    "pin = \"@\"",
    "pin = '@'",
    "pin = @",
    "pin = 8421357690",
    "pin = 84213576.90",
    "pin = [\"@\"]",
    "pin = { value = \"@\" }",
    "pin = \"env:@\"",
    "pin = \"pin:@\"",
    "pin = \"fd:@\"",
    "pin = \"credential:/@\"",
    "pin = \"credential:@\"",
    "pin = \"file:@\"",
    "pin = \"file:token/@\"",
    "pin = \"file:token/pin/@\"",
    "pin = \"prompt @\"",
    "pin = \"@",
    "pin = '''@",
    "pin \"@\"",
    "pin: \"@\"",
    "pin = \"\\@\"",
    "pin = \"@\" # \"\npin = \"@\"",
    "pin = \"file:token/pin\"\npin = \"@\"",
    "pin = \"file:token/pin\"\npni = \"@\"",
    "pin = \"file:token/pin\"\nuser_pin = \"@\"",
    "pin = \"file:token/pin\"\npin-value = '@'",
    "pin = \"file:token/pin\"\npassword = [{ of = \"@\" }]",
    "pin = \"file:token/pin\"\nuser-pin = 8421357690",
    "pim = \"@\"",
    "PIN = \"@\"",
    "\"pin\" = \"@\"",
    "pin.value = \"@\"",
    "pin = \"file:token/pin\" \"@\"",
    "pin = 'file:token/pin'@",
];

/// What may become of `uri = "pkcs11:token=a"`, and of a key's.
const URI: [&str; 20] = [
    "pkcs11:token=a?pin-value=@",
    "pkcs11:token=a;pin-value=@",
    "pkcs11:token=a&pin-value=@",
    "pkcs11:token=a?PIN-VALUE=@",
    "pkcs11:token=a?pin-vlaue=@",
    "pkcs11:token=a?pinvalue=@",
    "pkcs11:token=a?pin=@",
    "pkcs11:token=a?pin-source=@",
    "pkcs11:token=a?pin-source=|echo @",
    "pkcs11:token=a?module-path=/x&pin-value=@",
    "pkcs11:token=a?pin-value=@&pin-value=@",
    "pkcs11:token=a?pin-value=@%zz",
    "pkcs11:token=a%3fpin-value=@",
    "pkcs11:token=a%3FPIN-value%3D@",
    "pkcs11:token=%26pin-value@",
    "pkcs11:token=a?@",
    "pkcs11:token=a;@",
    "pkcs11:@",
    "@",
    "pkcs12:token=a?pin-value=@",
];

/// The good configuration, and what may stand in its place.
fn spoilt(mesh: &Mesh) -> Vec<String> {
    let good = mesh.read("a/node.toml");
    let replaced = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let mut all: Vec<String> = PIN
        .iter()
        .map(|line| replaced("pin = \"file:token/pin\"", line))
        .collect();
    for uri in URI {
        all.push(replaced(
            "uri = \"pkcs11:token=a\"",
            &format!("uri = \"{uri}\""),
        ));
        let key = uri.replace("token=a", "object=server");
        all.push(replaced(
            "key = \"pkcs11:object=server\"",
            &format!("key = \"{key}\""),
        ));
    }
    for wrong in [
        "uri = 8421357690",
        "uri = [\"@\"]",
        "uri = { pin-value = \"@\" }",
    ] {
        all.push(replaced("uri = \"pkcs11:token=a\"", wrong));
        all.push(replaced(
            "key = \"pkcs11:object=server\"",
            &wrong.replace("uri", "key"),
        ));
    }
    for elsewhere in ["environment = \"@\"", "sessions = \"@\"", "server = \"@\""] {
        all.push(replaced("uri = ", &format!("{elsewhere}\nuri = ")));
    }
    all.push(format!("pin = \"@\"\n{good}"));
    all.push(format!("{good}\n[pin]\nuser = \"@\"\n"));
    all.push(format!("{good}\n[[token]]\npin = \"@\"\n"));
    all
}

/// Whether `text` holds a PIN, or most of one.
fn holds_secret(text: &str) -> bool {
    SECRETS
        .iter()
        .any(|secret| (0..=2).any(|start| text.contains(&secret[start..start + 8])))
        || text.contains("84213576.9")
}

fn fastness(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = Command::new(FASTNESS);
    command
        .args(arguments)
        .arg("--config")
        .arg(mesh.path("a/node.toml"));
    command.output().expect("the binary runs")
}

#[test]
fn a_pin_in_a_wrong_place_is_never_repeated() {
    let mesh = Mesh::new();
    let mut tried = 0;
    for secret in SECRETS {
        for text in spoilt(&mesh) {
            let text = text.replace('@', secret);
            write_private(&mesh.path("a/node.toml"), &text);
            // Most of it as a library, which is quick; the log of `run` is the supervisor's.
            let every_way: [&[&str]; 3] = [&["check"], &["check", "--format", "json"], &["run"]];
            for arguments in &every_way[..if tried % 4 == 0 { 3 } else { 1 }] {
                let output = fastness(&mesh, arguments);
                let said = crate::support::said(&output);
                assert_eq!(
                    output.status.code(),
                    Some(3),
                    "{arguments:?} of\n{text}\n{said}"
                );
                assert!(
                    !holds_secret(&said),
                    "{arguments:?} of\n{text}\nsaid\n{said}"
                );
            }
            tried += 1;
        }
        mesh.configure();
    }
    println!("{tried} configurations");
}

/// Pseudo-random numbers (xorshift), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }
}

/// Changes a few characters around the secret, never in it.
fn fuzzed(text: &str, secret: &str, random: &mut Random) -> String {
    const NOISE: &[char] = &[
        '"', '\'', '=', '[', ']', '{', '}', '#', ',', '.', ':', '\n', '\\', ' ', '?', '&', ';',
        '%', '\0', 'é',
    ];
    let place = text.find(secret).expect("it is there");
    let (mut before, mut after): (Vec<char>, Vec<char>) = (
        text[..place].chars().collect(),
        text[place + secret.len()..].chars().collect(),
    );
    for _ in 0..=random.below(4) {
        let noise = NOISE[random.below(NOISE.len())];
        let reach = 1 + random.below(12);
        match random.below(6) {
            0 => before.insert(before.len().saturating_sub(reach), noise),
            1 => after.insert(reach.min(after.len()), noise),
            2 => drop(before.remove(before.len().saturating_sub(reach))),
            3 if reach < after.len() => drop(after.remove(reach)),
            4 => before.push(noise),
            _ => after.insert(0, noise),
        }
    }
    before
        .into_iter()
        .chain(secret.chars())
        .chain(after)
        .collect()
}

#[test]
fn fuzzed_configurations_with_a_pin_in_them_are_never_quoted() {
    let mesh = Mesh::new();
    let spoilt = spoilt(&mesh);
    let file = mesh.path("a/fuzzed.toml");
    let mut random = Random(0x5eed_0ffa_577e);
    let (mut refused, mut faults_seen) = (0, 0);
    for round in 0..2000 {
        let secret = SECRETS[round % 2];
        let text = spoilt[round % spoilt.len()].replace('@', secret);
        let Some(text) = text
            .contains(secret)
            .then(|| fuzzed(&text, secret, &mut random))
        else {
            continue;
        };
        write_private(&file, &text);
        let Err(faults) = Config::load(&file) else {
            continue;
        };
        refused += 1;
        for fault in faults {
            faults_seen += 1;
            let said = format!("{fault}\n{fault:?}\n{}", serde_json::json!(fault));
            assert!(!holds_secret(&said), "of\n{text}\nsaid\n{said}");
        }
    }
    println!("{refused} refused, {faults_seen} faults");
    assert!(refused > 1000, "most of them are refused: {refused}");
}

#[test]
fn a_pin_on_a_command_line_is_never_repeated() {
    let mesh = Mesh::new();
    let module = mesh.tokens("a").module;
    let module = module.to_str().expect("UTF-8");
    let uri = "pkcs11:token=a;object=server";
    let given: [&[&str]; 16] = [
        &["unlock", "--pin", "prompt", "@"],
        &["unlock", "@"],
        &["unlock", "--pinn=@"],
        &["unlock", "-p@"],
        &["token", "list", "--module", module, "--pin", "prompt", "@"],
        &[
            "token",
            "list",
            "--token",
            "pkcs11:token=a",
            "--module",
            module,
            "--pin",
            "file:@",
        ],
        &[
            "token", "csr", "--key", uri, "--out", "x", "--module", module, "--pin", "file:@",
        ],
        &[
            "token", "destroy", "--key", uri, "--yes=@", "--module", module,
        ],
        &["ca", "crl", "--dir", "x", "--out", "x", "--force=@"],
        &[
            "ca", "crl", "--dir", "x", "--out", "x", "--pin", "prompt", "@",
        ],
        &["spki-pin", "pkcs11:token=a;object=b?pin-value=@"],
        &["spki-pin", "PKCS11:token=a;object=b?pin-value=@"],
        &["spki-pin", " pkcs11:token=a;object=b?pin-value=@"],
        &["spki-pin", "pkcs11 token=a;object=b?pin-value=@"],
        &["spki-pin", "--module", module, "--pin", "prompt", "@"],
        &["spki-pin", uri, "--module", module, "--pin", "file:@"],
    ];
    for secret in SECRETS {
        for arguments in given {
            let arguments = arguments
                .iter()
                .map(|argument| argument.replace('@', secret));
            let output = mesh.tokens("a").fastness().args(arguments.clone()).output();
            let output = output.expect("the binary runs");
            let said = crate::support::said(&output);
            let arguments: Vec<_> = arguments.collect();
            assert!(!output.status.success(), "{arguments:?}: {said}");
            assert!(!holds_secret(&said), "{arguments:?} said\n{said}");
        }
    }
    let misspelt = Command::new(FASTNESS)
        .args(["unlock", "--pim", "prompt"])
        .output();
    let said = crate::support::said(&misspelt.expect("the binary runs"));
    assert!(said.contains("--pim") && said.contains("--pin"), "{said}");
}
