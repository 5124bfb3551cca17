//! P2PFL learners on hosts of their own, each beside a node whose keys are in a token.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::support::network::address;
use crate::support::{Judge, Learner, Mesh, Network, Node, Options, Tokens, eventually, id_of};
use crate::support::{json, peer, python};

/// The nodes' port on every host.
pub const NODES: u16 = 7443;
/// The learners' port on every host.
pub const LEARNERS: u16 = 6666;

/// Hosts `a`, `b`, … and what runs on them.
pub struct Fleet {
    pub nodes: BTreeMap<String, Node>,
    pub network: Network,
    pub mesh: Mesh,
    pub names: Vec<String>,
}

/// P2PFL's own commands, and one of the tests'.
const COMMANDS: &str = r#"["beat", "start_learning", "stop_learning", "model_initialized", "vote_train_set",
    "models_aggregated", "models_ready", "metrics", "PRE_SEND_MODEL", "init_model", "partial_model",
    "add_model", "note-what-came"]"#;

/// P2PFL's place of the host with this index in the virtual plan: the same on every host.
pub fn learner_at(index: usize) -> String {
    format!("127.77.0.{}:{LEARNERS}", index + 1)
}

impl Fleet {
    /// Prepared hosts in the virtual plan; nothing runs yet.
    pub fn new(names: &[&str]) -> Self {
        Self::on(Network::new(names), names)
    }

    /// The same, on a network with hosts of these names.
    pub fn on(network: Network, names: &[&str]) -> Self {
        let mut mesh = Mesh::new();
        for name in names {
            if !mesh.ports.contains_key(*name) {
                add_node(&mut mesh, name);
            }
            mesh.ports.insert((*name).to_owned(), NODES);
        }
        let fleet = Self {
            nodes: BTreeMap::new(),
            network,
            mesh,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        for name in names {
            fleet.configure(name);
        }
        fleet
    }

    fn index(&self, name: &str) -> usize {
        let found = self.names.iter().position(|own| own == name);
        found.expect("a host of this fleet")
    }

    /// Writes what a node is told: its peers, and the learners' places.
    fn configure(&self, name: &str) {
        let (mesh, own) = (&self.mesh, self.index(name));
        let others = || {
            let names = self.names.iter().enumerate();
            names.filter(move |(index, _)| *index != own)
        };
        let peers: String = others()
            .map(|(index, other)| {
                let at = format!("{}:{NODES}", address(index));
                peer(other, Some(&at), |key| {
                    mesh.pins[&format!("{other}/{key}")].clone()
                })
            })
            .collect();
        mesh.write(&format!("{name}/peers.toml"), &peers);
        let node = mesh.node_toml(name).replace(
            &format!("127.0.0.1:{NODES}"),
            &format!("{}:{NODES}", address(own)),
        );
        let egress: String = others()
            .map(|(index, other)| format!("{other} = \"{}\"\n", learner_at(index)))
            .collect();
        let application = format!(
            "\n[application]\nkind = \"p2pfl\"\nupstream = \"{}\"\n\n[application.egress]\n{egress}\n",
            learner_at(own)
        );
        mesh.write(&format!("{name}/node.toml"), &(node + &application));
    }

    /// Lets every peer give the tests' own command to every learner.
    pub fn allow_blobs(&self) {
        for name in &self.names {
            let others = self.names.iter().filter(|other| *other != name);
            let lists: String = others
                .map(|other| format!("{other} = {COMMANDS}\n"))
                .collect();
            let text = format!("\n[application.commands]\n{lists}");
            self.mesh.section(name, &text);
        }
    }

    /// Starts every node.
    pub fn start_nodes(&mut self) {
        for name in self.names.clone() {
            let through = self.network.on(&name);
            let options = Options {
                through,
                ..Options::default()
            };
            let node = Node::spawn(&name, &self.mesh.path(&name), NODES, options);
            self.nodes.insert(name, node);
        }
        self.nodes.values().for_each(Node::wait_ready);
    }

    /// Starts the learner of a host; `options` beside its step.
    pub fn learner(&self, name: &str, options: &[&str]) -> Learner {
        let index = self.index(name);
        let step = (1296 * (index + 1)).to_string();
        let options = [&["--step", &step], options].concat();
        let folder = self.mesh.path(name);
        Learner::start(&self.network, name, &folder, &learner_at(index), &options)
    }

    /// Watches the link between the hosts.
    pub fn watch(&self) -> Wire {
        Wire::watch(&self.network)
    }
}

/// A watch on the link.
pub struct Wire(Judge);

impl Wire {
    /// Watches the switch.
    pub fn watch(network: &Network) -> Self {
        // What P2PFL says; long enough that a gigabyte of ciphertext never says it by chance.
        let words = [
            "127.77.0.",
            "PRI * HTTP/2.0",
            "PRE_SEND_MODEL",
            "models_aggregated",
            "note-what-came",
            "numpy.core",
        ];
        Self::on(network, &[NODES, LEARNERS], &words)
    }

    /// Watches the switch for these words, and for what is at other ports.
    pub fn on(network: &Network, ports: &[u16], words: &[&str]) -> Self {
        let mut script = python("wire.py");
        script.args(ports.iter().map(u16::to_string));
        let mut command = network.moved("switch", script.arg("--").args(words));
        let mut judge = Judge::start(&mut command);
        assert_eq!(judge.hear(), "watching");
        Self(judge)
    }

    /// Ends the watch: there was mutual TLS, all of it was seen, and nothing else was there.
    #[track_caller]
    pub fn saw_tls_alone(self) -> Value {
        let report = self.saw_no_plaintext();
        for what in ["dropped", "gaps"] {
            assert_eq!(report[what], 0, "{what}: {report}");
        }
        assert!(report["records"].as_u64() > Some(20), "{report}");
        report
    }

    /// Ends the watch: of what was seen, nothing was anything but TLS.
    #[track_caller]
    pub fn saw_no_plaintext(self) -> Value {
        let report = self.report();
        for what in ["not_tls", "plaintext", "others"] {
            let seen = report[what].as_array();
            assert!(seen.is_some_and(Vec::is_empty), "{what}: {report}");
        }
        report
    }

    /// Ends the watch, and returns what was seen.
    #[track_caller]
    pub fn report(self) -> Value {
        json(&self.0.close_and_hear())
    }
}

/// A token with keys and certificates like those of the mesh's first two nodes.
fn add_node(mesh: &mut Mesh, name: &str) {
    let token = Tokens::prepare(&mesh.path(name), name);
    for role in ["server", "client"] {
        for label in [role.to_owned(), format!("{role}-backup")] {
            let pin = token.keygen(&label, role, "p256");
            mesh.pins.insert(format!("{name}/{label}"), pin);
        }
        mesh.issue(
            name,
            role,
            role,
            &id_of(name),
            &format!("{name}/{role}.pem"),
        );
    }
}

/// Connects each learner to those before it, and waits until everybody knows everybody.
#[track_caller]
pub fn connect(learners: &mut [&mut Learner]) {
    for later in 1..learners.len() {
        for earlier in 0..later {
            let address = learners[earlier].address.clone();
            let connected = eventually("a learner connects", || {
                let connected = learners[later].ask(&["connect", &address]);
                (connected == true).then_some(connected)
            });
            assert_eq!(connected, true);
        }
    }
    let count = learners.len() - 1;
    for learner in learners {
        eventually("all learners are neighbours", || {
            let neighbours = learner.ask(&["neighbors"]);
            (neighbours.as_array()?.len() == count).then_some(())
        });
    }
}

/// Lets the first of them begin to learn, and waits until all have ended, calling `meanwhile` with what
/// each says; returns the model that all of them have.
#[track_caller]
pub fn learn(
    learners: &mut [&mut Learner],
    rounds: u64,
    mut meanwhile: impl FnMut(&[Value]),
) -> Value {
    let (rounds_text, size) = (rounds.to_string(), learners.len().to_string());
    learners[0].ask(&["learn", &rounds_text, &size]);
    // P2PFL's own deadlines are longer than our patience: what takes so long has failed.
    let progress = eventually_for(300, "all learners have ended", || {
        let all: Vec<Value> = learners
            .iter_mut()
            .map(|learner| learner.ask(&["progress"]))
            .collect();
        meanwhile(&all);
        all.iter().all(|one| one["finished"] == true).then_some(all)
    });
    for one in &progress {
        assert_eq!(one["rounds"], rounds, "{progress:?}");
        assert_eq!(one["trained"], rounds, "{progress:?}");
    }
    let models: Vec<Value> = learners
        .iter_mut()
        .map(|learner| learner.ask(&["model"]))
        .collect();
    assert!(models.iter().all(|model| *model == models[0]), "{models:?}");
    models[0].clone()
}

#[track_caller]
fn eventually_for<T>(seconds: u32, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..seconds * 2 {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    panic!("it never happened: {what}");
}

/// That no file below a folder holds a private key in the clear.
#[track_caller]
pub fn no_private_key_below(folder: &std::path::Path) {
    let mut grep = Command::new("grep");
    grep.args(["-rl", "--binary-files=text", "PRIVATE KEY"])
        .arg(folder);
    let output = grep.output().expect("grep");
    // 1: nothing was found.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder").flatten();
            left.extend(entries.map(|entry| entry.path()));
        } else if meta.is_file() {
            assert!(!is_key_in_der(&path), "{path:?}");
        }
    }
}

/// Whether openssl reads a private key from it that is in no armour.
pub fn is_key_in_der(file: &std::path::Path) -> bool {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "pkey", "-inform", "DER", "-noout", "-passin", "pass:x", "-in",
    ]);
    let output = openssl.arg(file).output().expect("openssl");
    output.status.success()
}
