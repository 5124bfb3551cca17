//! For tests alone (feature `attack-trigger`): passes the attempts on to the role that is to make them.

use super::Supervisor;
use crate::sandbox::{Role, attack::Attack};

impl Supervisor {
    /// Called when the node says that it serves; those after it are left alone, so that a test sees what
    /// remains of an attack.
    pub(super) fn attack(&self) {
        if self.node.restarts > 0 {
            return;
        }
        if let Some(attack) = Attack::on(Role::Supervisor) {
            attack.run(Some(std::os::unix::process::parent_id()));
        }
        if let Some(attack) = Attack::on(Role::Node) {
            self.node.attack(attack);
        }
        if let Some(attack) = Attack::on(Role::Keeper) {
            self.keepers[0].attack(attack);
        }
    }
}
