//! An unchanged application beside each node: what it says to a place of its own on this host reaches
//! the application of a peer through mutual TLS, and nobody else.

use crate::support::{Judge, Mesh, Node, id_of, python, run};

/// Nodes `a`, with an application, and `b`, whose application reaches it at `a.sock`.
fn joined(mesh: &Mesh) -> (Judge, Node, Node) {
    let application = Judge::start(
        python("application.py").arg(format!("unix:{}", mesh.path("a/app.sock").display())),
    );
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    mesh.section("b", "[application]\negress = { a = \"unix:a.sock\" }\n");
    let (a, b) = mesh.start_both();
    (application, a, b)
}

fn call(mesh: &Mesh, action: &str) -> String {
    run(python("caller.py")
        .arg(format!("unix:{}", mesh.path("b/a.sock").display()))
        .arg(action))
}

#[test]
fn an_application_calls_that_of_a_peer_which_is_told_who_calls() {
    let mesh = Mesh::new();
    let (mut application, _a, b) = joined(&mesh);
    assert_eq!(application.hear(), "serving");
    let told = format!(
        "hello [('told-x-fastness-peer-id', '{}'), ('told-x-fastness-pin-label', 'active'), ('told-x-own', 'kept')]\n",
        id_of("b")
    );
    assert_eq!(call(&mesh, "unary"), told);
    assert_eq!(call(&mesh, "fail"), "FAILED_PRECONDITION as you wish: so\n");
    assert_eq!(call(&mesh, "bulk"), "64 MiB and back\n");
    assert_eq!(call(&mesh, "message"), "100 MiB in one message\n");
    let dials = b
        .log()
        .lines()
        .filter(|line| line.contains("we dialled"))
        .count();
    assert_eq!(dials, 1, "all of them share one connection");
}
