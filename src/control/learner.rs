//! `fastness sandbox learn` and the process that loads the module for it.

use serde::{Deserialize, Serialize};

use super::KeeperSetup;
use crate::fault::Fault;

/// The one message to a learner, with the descriptor of its PIN.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LearnerSetup {
    /// As the keeper of this token would have it.
    pub(crate) keeper: KeeperSetup,
    /// Signatures of each thread with each key and mechanism.
    pub(crate) signatures: u32,
    /// Seconds to do nothing in, for threads of the module that wake by themselves.
    pub(crate) idle: u32,
}

/// The one message from a learner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromLearner {
    /// All was done.
    Learned(LearnerReport),
    /// It did not come that far. `latch`: the PIN was refused.
    Refused { faults: Vec<Fault>, latch: bool },
}

/// What a learner did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LearnerReport {
    pub(crate) label: String,
    pub(crate) manufacturer: String,
    pub(crate) model: String,
    /// Signatures made while it was watched.
    pub(crate) signatures: u64,
    /// Sessions opened anew while it was watched.
    pub(crate) reopened: u64,
}
