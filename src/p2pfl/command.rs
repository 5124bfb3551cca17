//! What P2PFL's nodes tell each other to do, and how each of these travels.

use super::Envelope;

/// P2PFL's commands (0.4.3 and later). In another envelope than its own a command is a trick: what must
/// come from its source could come as gossip in anybody's name.
pub(crate) const COMMANDS: [(&str, Envelope); 12] = [
    ("beat", Envelope::Gossip),
    ("start_learning", Envelope::Gossip),
    ("stop_learning", Envelope::Gossip),
    ("model_initialized", Envelope::Gossip),
    ("vote_train_set", Envelope::Gossip),
    ("models_aggregated", Envelope::Gossip),
    ("models_ready", Envelope::Gossip),
    ("metrics", Envelope::Gossip),
    ("PRE_SEND_MODEL", Envelope::Direct),
    ("init_model", Envelope::Weights),
    ("partial_model", Envelope::Weights),
    ("add_model", Envelope::Weights),
];

/// How a command of P2PFL travels; `None` for a command of somebody's own.
pub(super) fn envelope_of(command: &str) -> Option<Envelope> {
    let known = COMMANDS.iter().find(|(name, _)| *name == command);
    known.map(|(_, envelope)| *envelope)
}
