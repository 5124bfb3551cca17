//! What the supervisor and its roles say to each other, over the channel that each role has as its
//! standard input. Everything a role will ever need comes with the first message; nothing is passed
//! into a sealed process.

pub(crate) mod frame;
mod keeper;
mod learner;
mod node;
mod resolver;
mod unlock;

pub(crate) use keeper::{
    FromKeeper, KeeperReady, KeeperSetup, KeyReady, KeySetup, Retry, ToKeeper, Vitals,
};
pub(crate) use learner::{FromLearner, LearnerReport, LearnerSetup};
pub(crate) use node::{
    Answer, CredentialSetup, FromNode, Generation, NodeSetup, Order, ToNode, TokenSetup,
};
pub(crate) use resolver::{FromResolver, ResolverSetup, ToResolver};
pub(crate) use unlock::{Unlock, Unlocked};
