//! The socket of the application: who else may call it.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::support::node::signal;
use crate::support::{Mesh, Node, Options, eventually, said};

#[test]
fn a_socket_that_everybody_may_call_is_no_start_and_is_told_of_when_it_comes_later() {
    let mesh = Mesh::new();
    mesh.section("a", "[application]\nupstream = \"unix:app.sock\"\n");
    for folder in ["", "a"] {
        set_permissions(mesh.path(folder), Permissions::from_mode(0o711)).expect("ours");
    }
    let mut a = mesh.start("a");
    a.wait_log("the application does not listen yet");
    assert_eq!(a.status()["state"], "ready");
    let socket = mesh.path("a/app.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let becomes = |mode: u32, state: &str| {
        set_permissions(&socket, Permissions::from_mode(mode)).expect("ours");
        eventually(state, || (a.status()["state"] == state).then_some(()));
    };
    becomes(0o777, "degraded");
    let reason = a.status()["reason"].to_string();
    let why = "every user of this host can call the application as any peer";
    assert!(reason.contains(why), "{reason}");
    a.wait_log(why);
    becomes(0o770, "ready");
    becomes(0o777, "degraded");
    signal(a.supervisor(), Signal::TERM);
    assert!(a.wait_exit().success());
    let checked = mesh.check("a");
    assert!(!checked.status.success() && said(&checked).contains(why));
    let mut again = Node::spawn("a", &mesh.path("a"), mesh.ports["a"], Options::default());
    assert!(!again.wait_exit().success());
    assert!(again.log().contains(why), "{}", again.log());
}
