//! Learners behind Fastness together with one that does P2PFL's own mutual TLS with keys in files. All keep
//! the addresses that the network knows, so each learner behind a node has a network namespace of its own:
//! `hsm-setup/own-network`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::fleet::{LEARNERS, Wire, connect, learn, no_private_key_below};
use crate::support::network::address;
use crate::support::{Judge, Learner, Mesh, Network, Node, Options, id_of, peer, root, run};

/// The address of a host's learner, for everybody.
fn at(index: usize) -> String {
    format!("{}:{LEARNERS}", address(index))
}

/// A certificate from the mesh's authority that holds the address which P2PFL's own TLS looks for.
pub fn certify(mesh: &Mesh, (name, index): (&str, usize), role: &str, csr: &Path, out: &Path) {
    let ca = mesh.tokens("ca");
    run(ca
        .fastness()
        .args(["ca", "issue", "--profile", role, "--id", &id_of(name)])
        .args(["--ip", &address(index), "--pin", &ca.pin_source(), "--dir"])
        .arg(mesh.path("ca/authority"))
        .arg("--csr")
        .arg(csr)
        .arg("--out")
        .arg(out));
}

/// Keys in files for `c`, in the places that its settings name; returns their pins in the policy.
fn native(mesh: &Mesh) -> impl Fn(&str) -> String + use<> {
    let folder = mesh.path("c");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(mesh.path("ca/authority/ca.pem"), folder.join("ca.pem")).unwrap();
    let pins = ["server", "client"].map(|role| {
        let csr = folder.join(format!("{role}.csr"));
        run(Command::new("openssl")
            .args("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '))
            .args(["-subj", "/CN=native", "-keyout"])
            .arg(folder.join(format!("{role}.key")))
            .arg("-out")
            .arg(&csr)
            .stderr(Stdio::null()));
        let out = folder.join(format!("{role}.pem"));
        certify(mesh, ("c", 2), role, &csr, &out);
        let pin = run(mesh.tokens("ca").fastness().arg("spki-pin").arg(csr));
        (role, pin.trim().to_owned())
    });
    move |key| match pins.iter().find(|(role, _)| *role == key) {
        Some((_, pin)) => pin.clone(),
        None => fastness::policy::SpkiPin::of_spki(key.as_bytes()).to_string(),
    }
}

/// Writes what the node of `name` is told.
fn configure(mesh: &Mesh, name: &str, index: usize, native: impl Fn(&str) -> String) {
    for role in ["server", "client"] {
        let csr = mesh.path(&format!("{name}/again.csr"));
        mesh.tokens(name).csr(role, &csr);
        let out = mesh.path(&format!("{name}/{role}.pem"));
        fs::remove_file(&out).unwrap();
        certify(mesh, (name, index), role, &csr, &out);
        fs::remove_file(csr).unwrap();
    }
    let (other, other_index) = if name == "a" { ("b", 1) } else { ("a", 0) };
    let pin = |key: &str| mesh.pins[&format!("{other}/{key}")].clone();
    let peers = peer(other, Some(&at(other_index)), pin) + &peer("c", Some(&at(2)), native);
    mesh.write(&format!("{name}/peers.toml"), &peers);
    let node = mesh.node_toml(name);
    let old = format!("127.0.0.1:{}", mesh.ports[name]);
    assert!(node.contains(&old));
    let application = format!(
        "\n[application]\nkind = \"p2pfl\"\nupstream = \"unix:app.sock\"\n\n[application.egress]\n\
         {other} = \"unix:{other}.sock\"\nc = \"unix:c.sock\"\n"
    );
    let node = node.replace(&old, &at(index)) + &application;
    mesh.write(&format!("{name}/node.toml"), &node);
}

/// The learner's namespace on a host, and what keeps it.
fn own_network(network: &Network, mesh: &Mesh, name: &str, others: &[(&str, usize)]) -> Judge {
    let socket = |socket: &str| mesh.path(&format!("{name}/{socket}.sock"));
    let index = if name == "a" { 0 } else { 1 };
    let mut command = network.command(name, root().join("hsm-setup/own-network"));
    command
        .args(["--node-user", "0"])
        .arg(network.namespace(&format!("{name}-learner")))
        .arg(format!("{}={}", at(index), socket("app").display()));
    for (other, index) in others {
        command.arg(format!("{}={}", at(*index), socket(other).display()));
    }
    let mut kept = Judge::start(&mut command);
    assert!(kept.hear().starts_with("ready"));
    kept
}

#[test]
#[ignore = "a minute, and alone: ./tests/run starts it after the others"]
fn learners_behind_nodes_learn_with_one_that_has_its_keys_in_files() {
    let mut network = Network::new(&["a", "b", "c"]);
    let mut mesh = Mesh::new();
    for name in ["a", "b"] {
        mesh.ports.insert(name.into(), LEARNERS);
    }
    let native = native(&mesh);
    configure(&mesh, "a", 0, &native);
    configure(&mesh, "b", 1, &native);
    let start = |name: &str| {
        let through = network.on(name);
        let options = Options {
            through,
            ..Options::default()
        };
        let node = Node::spawn(name, &mesh.path(name), LEARNERS, options);
        node.wait_ready();
        node
    };
    let wire = Wire::watch(&network);
    let nodes = [start("a"), start("b")];
    let _networks = [
        own_network(&network, &mesh, "a", &[("b", 1), ("c", 2)]),
        own_network(&network, &mesh, "b", &[("a", 0), ("c", 2)]),
    ];
    for name in ["a-learner", "b-learner"] {
        network.adopt(name);
    }

    let patient = ["--patience", "60", "--step"];
    let behind = |name: &str, index: usize, step: &str| {
        let host = format!("{name}-learner");
        let options = [&patient[..], &[step]].concat();
        Learner::start(&network, &host, &mesh.path(name), &at(index), &options)
    };
    let mut a = behind("a", 0, "1296");
    let mut b = behind("b", 1, "2592");
    let files = mesh.path("c").display().to_string();
    let options = [&patient[..], &["3888", "--tls", &files]].concat();
    let mut c = Learner::start(&network, "c", &mesh.path("c"), &at(2), &options);
    connect(&mut [&mut a, &mut b, &mut c]);
    // The native one leads, then one with its keys in a token.
    let model = learn(&mut [&mut c, &mut a, &mut b], 2, |_| {});
    assert_eq!(model["first"], 5184.0);
    println!("the model on all three: {model}");
    for node in &nodes {
        assert!(!node.log().contains("was refused"), "{}", node.log());
    }
    // Native P2PFL believes what it is told; the others know better.
    let bound = "PERMISSION_DENIED: this certificate does not stand for that address";
    let forged = c.ask(&["forge", &at(1), "disconnect", &at(0)]);
    assert_eq!(forged, bound);
    assert_eq!(b.ask(&["neighbors"]), serde_json::json!([at(0), at(2)]));
    assert_eq!(a.ask(&["forge", &at(2), "disconnect", &at(1)]), "OK");
    println!("the wire: {}", wire.saw_tls_alone());
    for name in ["a", "b"] {
        no_private_key_below(&mesh.path(name));
    }
}
