//! A keeper's walls, once its token is open: what the module may still reach is what the configuration names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::control::KeeperSetup;
use crate::fault::Fault;
use crate::sandbox::{self, Entered, Maker, Profile, SandboxError, Walled, Walls};

/// Raises Landlock around a process whose module has its token open, made by `maker`. With the profile to seal it
/// with.
pub(super) fn wall(
    entered: Entered,
    maker: Maker,
    setup: &KeeperSetup,
) -> Result<(Walled, Profile), Fault> {
    let connected = sandbox::connected_ports()?;
    if let Some(fault) = unnamed(&connected, setup) {
        return Err(fault);
    }
    let profile = Profile::keeper(maker, setup.profile.as_ref()).map_err(SandboxError::from)?;
    let walls = Walls::of_token(maker, &setup.files, &setup.ports, |name| {
        std::env::var_os(name).map(PathBuf::from)
    });
    Ok((entered.wall(&walls)?, profile))
}

/// A connection that is open survives the walls; the module could not make it anew behind them.
fn unnamed(connected: &BTreeSet<u16>, setup: &KeeperSetup) -> Option<Fault> {
    let list = |ports: Vec<&u16>| {
        let ports: Vec<_> = ports.into_iter().map(u16::to_string).collect();
        ports.join(", ")
    };
    let unnamed: Vec<_> = connected.difference(&setup.ports).collect();
    if unnamed.is_empty() {
        return None;
    }
    let all = list(connected.union(&setup.ports).collect());
    let problem = format!(
        "the module is connected to TCP port {}, and could not connect to it again",
        list(unnamed)
    );
    let mend = format!("if that is the token, say so: ports = [{all}]");
    Some(Fault::new(format!("{}.ports", setup.place), problem, mend))
}
