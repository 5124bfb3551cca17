//! Whether the node's process lives: it is asked again and again, and has to say something. What is counted are
//! turns of our own main loop, not time: a supervisor that was stopped itself must not blame a good node.

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::node::Node;
use crate::control::{Answer, Order};

/// A node that serves counts as hung after so many turns ([`POLL`](super::POLL)) without a word: five seconds.
const SERVING: u32 = 10;
/// The same of one that builds a generation, at its start or for a reload, and hears nothing meanwhile: a minute,
/// as a keeper has. A reload has a bound of its own.
const BUILDING: u32 = 120;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Turns since it said anything.
    silent: u32,
    /// The newest question whether it lives.
    asked: Option<oneshot::Receiver<Answer>>,
    /// The newest reload that it was given.
    pub(super) reload: Option<u64>,
    /// This one was silent for too long.
    over: bool,
    /// The last one was, and none has become ready since.
    lost: bool,
}

impl Pulse {
    /// Another process starts.
    pub(super) fn begin(&mut self) {
        *self = Self {
            lost: self.lost,
            ..Self::default()
        };
    }

    /// It said something.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
    }

    /// It is ready.
    pub(super) fn found(&mut self) {
        self.lost = false;
    }

    /// The main loop has come round once more. Whether it has now been silent for too long; `serves`: it is not
    /// building anything.
    fn turn(&mut self, serves: bool) -> bool {
        let most = if serves { SERVING } else { BUILDING };
        self.silent = self.silent.saturating_add(1);
        let news = !self.over && self.silent >= most;
        self.over |= news;
        self.lost |= news;
        news
    }

    /// Whether a question is still without its answer.
    fn waits(&mut self) -> bool {
        let asked = self.asked.as_mut();
        asked.is_some_and(|asked| matches!(asked.try_recv(), Err(TryRecvError::Empty)))
    }
}

impl Node {
    /// Asks whether it lives, and kills it when it has been silent for too long: its exit starts the next one.
    pub(super) fn poll(&mut self) {
        if self.pid().is_none() {
            return;
        }
        let builds = self.pulse.reload.is_some_and(|id| self.awaits(id));
        if self.pulse.turn(self.ready && !builds) {
            tracing::error!("the node does not answer: killed");
            self.ready = false;
            self.kill();
        } else if self.ready && !self.pulse.waits() {
            self.pulse.asked = Some(self.order(Order::Alive));
        }
    }

    /// Why it is not ready, for people.
    pub(super) fn trouble(&self) -> &'static str {
        match self.pulse.lost {
            true => "the node's process did not answer and is started again",
            false => "the node's process is not ready",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns until it is found out.
    fn patience(pulse: &mut Pulse, serves: bool) -> Option<u32> {
        (1..1000).find(|_| pulse.turn(serves))
    }

    #[test]
    fn silence_is_counted_from_the_last_word_and_found_out_once() {
        let mut pulse = Pulse::default();
        for _ in 0..100 {
            (1..SERVING).for_each(|_| assert!(!pulse.turn(true), "slow, and no more"));
            pulse.heard();
        }
        assert!(!pulse.lost);
        assert_eq!(patience(&mut pulse, true), Some(SERVING));
        assert!(pulse.lost);
        assert_eq!(patience(&mut pulse, true), None, "it was killed already");
    }

    #[test]
    fn the_next_one_has_longer_until_it_is_ready_and_the_reason_stays_until_then() {
        let mut pulse = Pulse::default();
        assert_eq!(patience(&mut pulse, true), Some(SERVING));
        pulse.begin();
        assert_eq!(patience(&mut pulse, false), Some(BUILDING));
        pulse.begin();
        assert!(pulse.lost);
        pulse.heard();
        pulse.found();
        assert!(!pulse.lost);
        assert_eq!(patience(&mut pulse, true), Some(SERVING));
    }

    #[test]
    fn one_that_builds_has_longer_and_no_more_once_nobody_waits_for_that() {
        let mut pulse = Pulse::default();
        (0..2 * SERVING).for_each(|_| assert!(!pulse.turn(false)));
        assert_eq!(patience(&mut pulse, true), Some(1));
    }

    #[test]
    fn no_second_question_is_asked_before_the_first_is_answered() {
        let mut pulse = Pulse::default();
        assert!(!pulse.waits());
        let (answer, asked) = oneshot::channel();
        pulse.asked = Some(asked);
        assert!(pulse.waits());
        answer.send(Answer::Alive).unwrap();
        assert!(!pulse.waits());
    }
}
