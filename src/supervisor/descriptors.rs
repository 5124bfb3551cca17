//! How many descriptors each process may have open.

use super::keepers::AHEAD;
use crate::config::{Application, Config};
use crate::{keeper, node};

/// Descriptors of the supervisor beside those that it keeps for its roles: administrators, files, the log.
const ROOM: usize = 256;

/// Most descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFiles {
    pub(super) supervisor: u64,
    pub(super) node: u64,
    /// Of any process: what a role is started with and lowers itself.
    pub(super) most: u64,
}

impl OpenFiles {
    pub(super) fn of(config: &Config) -> Self {
        let channels = config.tokens.iter().map(|token| channels(token.sessions));
        let all_channels: usize = channels.clone().sum();
        let doors = config
            .application
            .iter()
            .flat_map(Application::listens)
            .count();
        let listeners = config.listen.len() + usize::from(config.metrics.is_some()) + doors;
        let given =
            listeners + all_channels + node::application_descriptors(config.application.as_ref());
        let each = node::per_connection(config.application.as_ref());
        let node = node::role::open_files(&config.limits, each, given);
        // Both ends of each channel, and two for each role.
        let own = listeners + 2 * all_channels + 2 * (config.tokens.len() + 1) + ROOM;
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        let keepers = channels.map(keeper::role::open_files);
        Self {
            supervisor: own,
            node,
            most: keepers.chain([own, node]).max().unwrap_or(own),
        }
    }
}

fn channels(sessions: u8) -> usize {
    usize::from(sessions) + AHEAD
}
