//! `fastness sandbox show` is for whoever may read the configuration, with or without its PINs.

use std::process::Command;

use crate::support::{FASTNESS, Mesh, run, show};

#[test]
fn profiles_are_shown_without_pins_and_with_certificates_that_are_out_of_date() {
    let mesh = Mesh::new();
    let whole = show(&mesh);
    for pin in ["credential:user-pin", "fd:77", "file:nowhere"] {
        mesh.configure();
        mesh.edit("a/node.toml", "\"file:token/pin\"", &format!("{pin:?}"));
        assert_eq!(show(&mesh), whole, "{pin}");
    }
    // What a certificate says is a matter of `check`.
    mesh.write("a/server.pem", "out of date");
    assert_eq!(show(&mesh), whole);
    assert!(!mesh.check("a").status.success());
}

#[test]
fn check_says_how_it_is_given_a_credential() {
    let mesh = Mesh::new();
    mesh.edit(
        "a/node.toml",
        "\"file:token/pin\"",
        "\"credential:user-pin\"",
    );
    let said = crate::support::said(&mesh.check("a"));
    assert!(
        said.contains("systemd-run --pipe -p LoadCredentialEncrypted="),
        "{said}"
    );
    let help = run(Command::new(FASTNESS).args(["sandbox", "show", "--help"]));
    assert!(help.contains("not looked at"), "{help}");
}
