//! What a token's module may connect to: the TCP ports that its `[[token]]` names.

use std::io::ErrorKind;
use std::net::TcpListener;

use crate::learn::{learn, with_code};
use crate::support::{Mesh, in_softhsm, said, show};

/// A mesh whose node `a` has a module around SoftHSM that connects once to where it returns, before the login is over.
fn with_an_appliance() -> (Mesh, TcpListener, u16) {
    let mesh = Mesh::new();
    let appliance = TcpListener::bind("127.0.0.1:0").expect("a port");
    appliance.set_nonblocking(true).expect("our own socket");
    let port = appliance.local_addr().expect("bound").port();
    let [high, low] = port.to_be_bytes();
    with_code(
        &mesh,
        &format!(
            "if (!once++) {{ unsigned char to[16] = {{2, 0, {high}, {low}, 127, 0, 0, 1}}; \
             syscall(SYS_connect, syscall(SYS_socket, 2, 1, 0), to, 16); }}"
        ),
    );
    (mesh, appliance, port)
}

fn name(mesh: &Mesh, ports: &str) {
    mesh.edit("a/node.toml", "pin = ", &format!("ports = {ports}\npin = "));
}

fn is_called(appliance: &TcpListener) -> bool {
    match appliance.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_module_reaches_the_ports_that_are_named_and_they_are_shown() {
    if !in_softhsm() {
        return;
    }
    let (mesh, appliance, port) = with_an_appliance();
    let checked = mesh.check("a");
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(!is_called(&appliance), "{}", said(&checked));
    name(&mesh, &format!("[{port}]"));
    let checked = mesh.check("a");
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(is_called(&appliance), "{}", said(&checked));
    let text = format!("connects to only TCP ports {port}; binds");
    assert!(said(&checked).contains(&text), "{}", said(&checked));
    let (a, b) = mesh.start_both();
    b.ping("a");
    let shown = show(&mesh);
    let roles = shown["roles"].as_array().expect("a list");
    let mut all = vec![mesh.ports["b"], port];
    all.sort_unstable();
    for (role, ports) in [
        ("supervisor", all),
        ("keeper", vec![port]),
        ("node", vec![mesh.ports["b"]]),
    ] {
        let one = roles.iter().find(|one| one["role"] == role);
        let one = one.expect("it is shown");
        assert_eq!(one["landlock"]["connect_tcp"], serde_json::json!(ports));
        assert_eq!(one["mismatches"], serde_json::json!([]), "{one}");
    }
    // They are sealed.
    mesh.edit("a/node.toml", &format!("ports = [{port}]"), "ports = []");
    let output = a.ask(&["reload"]).expect_err("other ports");
    assert!(
        said(&output).contains("restart the node"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_module_that_is_connected_to_a_port_that_is_not_named_does_not_serve() {
    if !in_softhsm() {
        return;
    }
    let (mesh, appliance, port) = with_an_appliance();
    name(&mesh, "[1792]");
    // Nothing is behind walls while it is watched; and of a node, some other role has the port.
    mesh.section("a", &format!("[sandbox]\ndial_ports = [{port}]\n"));
    let both = match port < 1792 {
        true => format!("{port}, 1792"),
        false => format!("1792, {port}"),
    };
    for output in [learn(&mesh, &[]), mesh.check("a")] {
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        for words in [
            "token[0].ports: ".to_owned(),
            format!("the module is connected to TCP port {port}, and"),
            format!("ports = [{both}]"),
        ] {
            assert!(said(&output).contains(&words), "{words}: {}", said(&output));
        }
        assert!(is_called(&appliance));
    }
    assert!(!mesh.path("a/draft.json").exists());
}
