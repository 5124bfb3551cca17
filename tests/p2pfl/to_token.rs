//! `hsm-setup/p2pfl/to-token`: two P2PFL nodes with keys in files become two with keys in tokens, and go
//! back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::SanType;

use super::fleet::{LEARNERS, connect, learn, no_private_key_below};
use super::mixed::certify;
use crate::support::files::FileCa;
use crate::support::network::address;
use crate::support::{FASTNESS, Learner, Mesh, Network, Node, Options, root, said};

/// A deployment as P2PFL's users have it: keys in files, one settings file a node.
struct Deployment {
    network: Network,
    mesh: Mesh,
}

type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Every file of a folder, with what is in it and who may read it.
fn files_below(folder: &Path) -> Files {
    let listed = Command::new("find")
        .arg(folder)
        .args(["-type", "f", "-not", "-path", "*/run/*"])
        .output()
        .expect("find");
    let text = String::from_utf8(listed.stdout).unwrap();
    let read = |path: &str| {
        let path = PathBuf::from(path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        (path.clone(), (fs::read(path).unwrap(), mode))
    };
    text.lines().map(read).collect()
}

const HOSTS: [&str; 2] = ["a", "b"];
const PATIENT: [&str; 2] = ["--patience", "60"];

impl Deployment {
    fn new() -> Self {
        let deployment = Self {
            // The doctor sees no other test's learners.
            network: Network::new(&HOSTS).part(),
            mesh: Mesh::new(),
        };
        let ca = FileCa::new("P2PFL's own");
        let mut fleet = String::from("# the fleet\n");
        for (index, host) in HOSTS.iter().enumerate() {
            let folder = deployment.certificates(host);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("ca.crt"), &ca.pem).unwrap();
            for role in ["server", "client"] {
                let mut leaf = FileCa::leaf("spiffe://any.example/x", role);
                let ip = address(index).parse().unwrap();
                leaf.subject_alt_names = vec![SanType::IpAddress(ip)];
                ca.identity(&folder, role, &leaf);
                fs::rename(
                    folder.join(format!("{role}.pem")),
                    folder.join(format!("{role}.crt")),
                )
                .unwrap();
            }
            let own = format!("{}:{LEARNERS}", address(index));
            let mut settings = format!("ADDRESS = \"{own}\"\nSettings.ssl.USE_SSL = True\n");
            for (name, file) in [
                ("CA_CRT", "ca.crt"),
                ("SERVER_CRT", "server.crt"),
                ("SERVER_KEY", "server.key"),
                ("CLIENT_CRT", "client.crt"),
                ("CLIENT_KEY", "client.key"),
            ] {
                let path = folder.join(file);
                settings += &format!("Settings.ssl.{name} = \"{}\"\n", path.display());
            }
            fs::write(deployment.settings(host), settings).unwrap();
            fleet += &format!("{host} {own}\n");
        }
        deployment.mesh.write("fleet", &fleet);
        deployment
    }

    fn certificates(&self, host: &str) -> PathBuf {
        self.mesh.path(&format!("deployed/{host}/certificates"))
    }

    fn settings(&self, host: &str) -> PathBuf {
        self.mesh.path(&format!("deployed/{host}/settings.py"))
    }

    /// The script on a host.
    fn command(&self, host: &str, step: &str) -> Command {
        let script = root().join("hsm-setup/p2pfl/to-token");
        let mut command = self.network.command(host, script);
        command
            .env("FASTNESS", FASTNESS)
            .args([step, "--domain", "test.example", "--node", host, "--dir"])
            .arg(self.mesh.path(&format!("moved/{host}")))
            .arg("--fleet")
            .arg(self.mesh.path("fleet"))
            .arg("--certificates")
            .arg(self.certificates(host))
            .arg("--settings")
            .arg(self.settings(host));
        command
    }

    fn step(&self, host: &str, step: &str, more: &[&str]) -> Output {
        self.command(host, step).args(more).output().expect("bash")
    }

    #[track_caller]
    fn done(&self, host: &str, step: &str, more: &[&str]) -> String {
        let output = self.step(host, step, more);
        assert!(output.status.success(), "{step}: {}", said(&output));
        said(&output)
    }

    /// Every file of the deployment.
    fn files(&self) -> Files {
        files_below(&self.mesh.path("deployed"))
    }

    fn learner(&self, host: &str) -> Learner {
        let folder = self.mesh.path(&format!("deployed/{host}/run"));
        fs::create_dir_all(&folder).unwrap();
        let settings = self.settings(host).display().to_string();
        let options = [&PATIENT[..], &["--settings", &settings]].concat();
        Learner::start(&self.network, host, &folder, "-", &options)
    }

    fn moved(&self, host: &str, file: &str) -> PathBuf {
        self.mesh.path(&format!("moved/{host}/{file}"))
    }

    /// What the authority and the other nodes give.
    fn hand_over(&self) {
        for (index, host) in HOSTS.iter().enumerate() {
            fs::copy(
                self.mesh.path("ca/authority/ca.pem"),
                self.moved(host, "ca.pem"),
            )
            .unwrap();
            for role in ["server", "client"] {
                let file = |kind: &str| self.moved(host, &format!("{role}.{kind}"));
                certify(&self.mesh, (host, index), role, &file("csr"), &file("pem"));
            }
            let other = HOSTS[1 - index];
            let introduction = format!("{host}.peer.toml");
            let to = self.moved(other, &format!("peers/{introduction}"));
            fs::copy(self.moved(host, &introduction), to).unwrap();
        }
    }

    /// As far as `switch` asks: for tests of nothing but what it does with files.
    fn joined() -> Self {
        let deployment = Self::new();
        fs::create_dir_all(deployment.moved("a", "peers")).unwrap();
        deployment.mesh.write("moved/a/node.toml", "# joined");
        deployment
    }

    fn key(&self, role: &str) -> PathBuf {
        self.certificates("a").join(format!("{role}.key"))
    }

    /// The copy that `switch` makes of a file.
    fn copy(&self, file: &Path) -> PathBuf {
        self.moved("a", "backup")
            .join(file.strip_prefix("/").unwrap())
    }

    #[track_caller]
    fn refused(&self, step: &str, words: &str) {
        let output = self.step("a", step, &[]);
        assert!(!output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }

    fn start_node(&self, host: &str) -> Node {
        let options = Options {
            through: self.network.on(host),
            ..Options::default()
        };
        let node = Node::spawn(host, &self.moved(host, ""), LEARNERS, options);
        node.wait_ready();
        node
    }
}

#[test]
fn a_deployment_with_keys_in_files_moves_to_tokens_and_back() {
    let deployment = Deployment::new();
    let before = deployment.files();
    {
        let (mut a, mut b) = (deployment.learner("a"), deployment.learner("b"));
        connect(&mut [&mut a, &mut b]);
        // With P2PFL running: nothing that it needs is touched.
        for host in HOSTS {
            let told = deployment.done(host, "look", &[]);
            assert!(
                told.contains("its keys are in its memory and in files"),
                "{told}"
            );
            assert!(told.contains("Nothing was changed"), "{told}");
            deployment.done(host, "prepare", &["--dry-run"]);
            assert!(!deployment.moved(host, "").exists());
            let output = deployment.step(host, "switch", &[]);
            assert!(
                said(&output).contains("join comes first"),
                "{}",
                said(&output)
            );
            deployment.done(host, "prepare", &[]);
            let output = deployment.step(host, "join", &[]);
            assert!(said(&output).contains("not there yet"), "{}", said(&output));
        }
        let pin = fs::read(deployment.moved("a", "server.pin")).unwrap();
        // Again: what is there stays.
        deployment.done("a", "prepare", &[]);
        assert_eq!(fs::read(deployment.moved("a", "server.pin")).unwrap(), pin);
        deployment.hand_over();
        assert_eq!(deployment.files(), before);
    }
    for host in HOSTS {
        deployment.done(host, "join", &[]);
        deployment.done(host, "switch", &["--dry-run"]);
    }
    assert_eq!(deployment.files(), before);

    for host in HOSTS {
        deployment.done(host, "switch", &[]);
        no_private_key_below(&deployment.certificates(host));
        let settings = fs::read_to_string(deployment.settings(host)).unwrap();
        assert!(settings.contains("USE_SSL = False"), "{settings}");
        assert!(settings.contains("\"127.77.0."), "{settings}");
    }
    {
        let _nodes = HOSTS.map(|host| deployment.start_node(host));
        let (mut a, mut b) = (deployment.learner("a"), deployment.learner("b"));
        assert_eq!(a.address, format!("127.77.0.1:{LEARNERS}"));
        connect(&mut [&mut a, &mut b]);
        learn(&mut [&mut a, &mut b], 1, |_| {});
        let mut doctor = deployment.network.command("a", FASTNESS);
        doctor.args(["p2pfl", "doctor", "--settings"]);
        let output = doctor.arg(deployment.settings("a")).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

    for host in HOSTS {
        deployment.done(host, "back", &["--dry-run"]);
        deployment.done(host, "back", &[]);
    }
    assert_eq!(deployment.files(), before, "to the byte, and to the mode");
    {
        let (mut a, mut b) = (deployment.learner("a"), deployment.learner("b"));
        connect(&mut [&mut a, &mut b]);
    }

    deployment.done("a", "switch", &[]);
    deployment.done("a", "forget", &[]);
    no_private_key_below(&deployment.moved("a", ""));
    let output = deployment.step("a", "back", &[]);
    assert!(said(&output).contains("no way back"), "{}", said(&output));
}

#[test]
fn a_key_that_was_renewed_between_two_switches_comes_back() {
    let deployment = Deployment::joined();
    deployment.done("a", "switch", &[]);
    deployment.done("a", "back", &[]);
    let kept = files_below(&deployment.moved("a", "backup"));
    assert!(kept.is_empty(), "{:?}", kept.keys());

    fs::write(deployment.key("server"), "renewed").unwrap();
    let settings = fs::read_to_string(deployment.settings("a")).unwrap() + "EPOCHS = 9\n";
    fs::write(deployment.settings("a"), settings).unwrap();
    let renewed = deployment.files();
    deployment.done("a", "switch", &[]);
    for role in ["server", "client"] {
        let copy = fs::metadata(deployment.copy(&deployment.key(role))).unwrap();
        assert_eq!(copy.permissions().mode() & 0o777, 0o600);
    }
    // Once more: it is so already.
    deployment.done("a", "switch", &[]);
    deployment.done("a", "back", &[]);
    assert_eq!(deployment.files(), renewed);
}

#[test]
fn what_was_changed_since_the_step_before_is_not_overwritten() {
    let deployment = Deployment::joined();
    deployment.done("a", "switch", &[]);
    let (key, settings) = (deployment.key("server"), deployment.settings("a"));
    fs::write(&key, "renewed").unwrap();
    deployment.refused("switch", "which an earlier switch left");
    deployment.refused("back", "was changed since switch");
    assert_eq!(fs::read_to_string(&key).unwrap(), "renewed");
    assert_ne!(fs::read(deployment.copy(&key)).unwrap(), b"renewed");
    fs::remove_file(&key).unwrap();

    let edited = fs::read_to_string(&settings).unwrap() + "EPOCHS = 9\n";
    fs::write(&settings, &edited).unwrap();
    deployment.refused("back", "was changed since switch");
    assert_eq!(fs::read_to_string(&settings).unwrap(), edited);
    fs::remove_file(&settings).unwrap();
    // The script wants to know where the settings are.
    fs::copy(deployment.copy(&settings), &settings).unwrap();
    deployment.done("a", "back", &[]);
    assert!(key.exists());
}

#[test]
fn use_ssl_is_switched_off_however_it_is_written_or_nothing_is_switched() {
    let deployment = Deployment::joined();
    let settings = deployment.settings("a");
    // The first is P2PFL's own settings.py.
    for on in [
        "    USE_SSL: bool = True",
        "Settings.set_from_dict({\"ssl\": {\"USE_SSL\": \"true\"}})",
        "USE_SSL   : Y",
        "use_ssl: 'on' # use_ssl: true",
        "ssl: {use_ssl: yes, ca_crt: /x}",
        "use_ssl: \"false\"",
    ] {
        fs::write(&settings, format!("{on}\n")).unwrap();
        deployment.done("a", "switch", &[]);
        let off = fs::read_to_string(&settings).unwrap().to_lowercase();
        let value = off.split_once("use_ssl").unwrap().1;
        let value = value.trim_start_matches([':', ' ', '=', '"']);
        let value = value.trim_start_matches("bool = ");
        assert!(value.starts_with("false"), "{off}");
        assert!(!value.starts_with("false\""), "{off}");
        deployment.done("a", "back", &[]);
    }
    for unclear in [
        "USE_SSL = not False",
        "USE_SSL = False or True",
        "setattr(Settings.ssl, \"USE_SSL\", True)",
        "use_ssl:",
    ] {
        fs::write(&settings, format!("# TLS\n{unclear}\n")).unwrap();
        let before = deployment.files();
        deployment.refused("switch", &format!("2:{unclear}"));
        assert_eq!(deployment.files(), before);
    }
    fs::write(&settings, "ADDRESS = \"\" # use_ssl\n").unwrap();
    let told = deployment.done("a", "switch", &[]);
    assert!(told.contains("P2PFL's default is True"), "{told}");
}

#[test]
fn a_folder_may_have_a_space_in_its_name() {
    let deployment = Deployment::new();
    let folder = deployment.mesh.path("moved to tokens");
    let mut command = deployment.command("a", "prepare");
    let output = command.arg("--dir").arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(folder.join("server.csr").exists());
}

/// Copies half, then fails as on a full disk.
const CP_ON_A_FULL_DISK: &str = "#!/bin/sh
for to; do from=$before; before=$to; done
head -c 50 \"$from\" >\"$to\"
echo 'No space left on device' >&2
exit 1
";

#[test]
fn a_copy_that_was_cut_short_is_not_taken_for_one() {
    let deployment = Deployment::joined();
    let before = deployment.files();
    fs::create_dir(deployment.mesh.path("full")).unwrap();
    let cp = deployment.mesh.write("full/cp", CP_ON_A_FULL_DISK);
    fs::set_permissions(&cp, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let full = format!("{}:{path}", cp.parent().unwrap().display());
    let on_a_full_disk = |step| {
        let output = deployment.command("a", step).env("PATH", &full).output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{}", said(&output));
    };

    on_a_full_disk("switch");
    assert_eq!(deployment.files(), before);
    deployment.done("a", "switch", &[]);
    on_a_full_disk("back");
    deployment.done("a", "back", &[]);
    assert_eq!(deployment.files(), before);

    // Half a key is a secret too.
    let half = deployment.copy(&deployment.key("client"));
    fs::write(half.with_extension("key.new"), "half").unwrap();
    deployment.done("a", "forget", &[]);
    let kept = files_below(&deployment.moved("a", "backup"));
    assert!(kept.is_empty(), "{:?}", kept.keys());
}
