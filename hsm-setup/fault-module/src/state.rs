//! The shared page: rules and counters, as atomics in a file that the module and its controllers
//! map. No locks, no pointers, valid when all zero (no rule), and safe to lose a process at any time.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::functions::Function;

/// "FASTNES" and a zero byte, little endian.
const MAGIC: u64 = 0x0053_454e_5453_4146;
/// Grows with every change of the layout below.
const LAYOUT: u32 = 2;
/// The most sessions that `sessions=` can model.
pub const MAX_LANES: usize = 64;
/// Processes that are remembered; the oldest is forgotten first.
const PROCESSES: usize = 64;

/// Bits of [`Cell::armed`].
pub mod armed {
    /// The function takes its time.
    pub const DELAY: u32 = 1;
    /// It answers with a code.
    pub const FAIL: u32 = 2;
    /// It does not return.
    pub const HANG: u32 = 4;
    /// It takes the process down.
    pub const ABORT: u32 = 8;
    /// Its output is wrong.
    pub const CORRUPT: u32 = 16;
    /// Errors of the wrapped module have another code.
    pub const REWORD: u32 = 32;
}

/// Bits of [`State::session_rules`].
pub mod session_rule {
    /// Sessions die when idle.
    pub const IDLE_DEATH: u32 = 1;
    /// The token was logged out at least once.
    pub const LOGOUT: u32 = 2;
}

/// The whole file.
#[repr(C)]
pub struct State {
    magic: AtomicU64,
    layout: AtomicU32,
    functions: AtomicU32,
    /// Whether the rules of a settings file were applied to it.
    pub settled: AtomicU32,
    /// Rules about sessions, see [`session_rule`].
    pub session_rules: AtomicU32,
    /// Flags added to CK_TOKEN_INFO.flags.
    pub pin_flags: AtomicU64,
    /// One more than the sessions a process may have open on a slot; 0: no limit of ours.
    pub max_sessions: AtomicU64,
    /// After how many ns without a call a session dies.
    pub idle_ns: AtomicU64,
    /// When that rule was made (CLOCK_MONOTONIC, ns): no session was idle before.
    pub idle_since: AtomicU64,
    /// What a dead session answers.
    pub idle_code: AtomicU32,
    /// Grows with every logout.
    pub logout_generation: AtomicU32,
    /// What the use of keys answers until the next login; 0: what the wrapped module says.
    pub logout_code: AtomicU32,
    /// Whether the logout takes the sessions with it.
    pub logout_closes: AtomicU32,
    next_process: AtomicU32,
    reserved: AtomicU32,
    /// Who used the module.
    pub processes: [Process; PROCESSES],
    cells: [Cell; Function::COUNT],
}

/// A process that initialised the module.
#[repr(C)]
pub struct Process {
    /// Its id, 0: none.
    pub pid: AtomicU32,
    /// Sessions it has open.
    pub sessions: AtomicU32,
}

/// One function: its rules and its counters.
#[repr(C, align(128))]
pub struct Cell {
    /// Every entry into the function, size queries included.
    pub calls: AtomicU64,
    /// Those that only asked for the size of the output.
    pub size_queries: AtomicU64,
    /// Errors that were our doing; the wrapped module was not called.
    pub injected: AtomicU64,
    /// Errors of the wrapped module itself.
    pub errors: AtomicU64,
    /// Calls that were made to wait by a delay.
    pub delayed: AtomicU64,
    /// Calls that were made to hang.
    pub hung: AtomicU64,
    /// Outputs that were corrupted.
    pub corrupted: AtomicU64,
    /// Calls of C_Finalize while a call that a rule holds up was under way.
    pub overlapped: AtomicU64,
    /// Which rules there are, see [`armed`]. Written by controllers only.
    pub armed: AtomicU32,
    /// How many lanes serve at once; 0: no queue.
    pub lanes: AtomicU32,
    /// How long a call takes, ns.
    pub delay_ns: AtomicU64,
    /// By how much that varies, ns, up and down.
    pub jitter_ns: AtomicU64,
    /// Grows when the delay changes: who waits for the old one goes on.
    pub delay_epoch: AtomicU32,
    /// Grows when hung calls are released.
    pub hang_epoch: AtomicU32,
    /// When, and with which code, it fails.
    pub fail: Trigger,
    /// One more than the function whose next success ends that; 0: none does.
    pub fail_until: AtomicU32,
    /// When it hangs.
    pub hang: Trigger,
    /// When it aborts.
    pub abort: Trigger,
    /// When its output is corrupted.
    pub corrupt: Trigger,
    /// When, and with which code, an error of the wrapped module is told.
    pub reword: Trigger,
    /// Until when (CLOCK_MONOTONIC, ns) each lane is taken. A call takes the lane that is free
    /// first and books it: a queue that survives the death of those who wait in it.
    pub lane: [AtomicU64; MAX_LANES],
}

/// When a rule strikes: after `after` calls, for `times` calls. One word, so that exactly as many
/// calls are struck as were ordered, whoever calls and whoever changes the rule meanwhile.
#[repr(transparent)]
pub struct Trigger(AtomicU64);

/// What a [`Trigger`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// A return code, where one is needed.
    pub code: u32,
    /// How many calls pass unharmed first.
    pub after: u16,
    /// How many are struck then; [`Strike::FOR_EVER`].
    pub times: u16,
}

impl Strike {
    /// Until it is cleared.
    pub const FOR_EVER: u16 = u16::MAX;

    fn pack(self) -> u64 {
        u64::from(self.code) | u64::from(self.times) << 32 | u64::from(self.after) << 48
    }

    #[expect(clippy::cast_possible_truncation, reason = "the parts of a word")]
    fn unpack(word: u64) -> Self {
        Self {
            code: word as u32,
            times: (word >> 32) as u16,
            after: (word >> 48) as u16,
        }
    }
}

impl Trigger {
    /// Sets or, with `None`, clears it.
    pub fn set(&self, strike: Option<Strike>) {
        self.0.store(strike.map_or(0, Strike::pack), Release);
    }

    /// What is left of it.
    pub fn peek(&self) -> Option<Strike> {
        Some(Strike::unpack(self.0.load(Acquire))).filter(|strike| strike.times > 0)
    }

    /// Counts a call; `Some(code)` when it is to be struck.
    pub fn pull(&self) -> Option<u32> {
        let mut struck = None;
        let step = |word| {
            let strike = Strike::unpack(word);
            struck = None;
            let left = match strike {
                Strike { times: 0, .. } => return None,
                Strike { after: 1.., .. } => Strike {
                    after: strike.after - 1,
                    ..strike
                },
                Strike {
                    times: Strike::FOR_EVER,
                    ..
                } => {
                    struck = Some(strike.code);
                    return None;
                }
                Strike { times: 1, .. } => Strike {
                    code: 0,
                    after: 0,
                    times: 0,
                },
                Strike { .. } => Strike {
                    times: strike.times - 1,
                    ..strike
                },
            };
            if strike.after == 0 {
                struck = Some(strike.code);
            }
            Some(left.pack())
        };
        // An Err says that there was nothing to write, not that nothing was struck.
        let _ = self.0.fetch_update(AcqRel, Acquire, step);
        struck
    }
}

impl Cell {
    /// Adds a rule of kind `kind` once its fields are written, so that no call sees half of it.
    pub fn arm(&self, kind: u32) {
        self.armed.fetch_or(kind, Release);
    }

    /// Takes a rule away.
    pub fn disarm(&self, kind: u32) {
        self.armed.fetch_and(!kind, Release);
        if kind & armed::DELAY != 0 {
            self.delay_epoch.fetch_add(1, Release);
            self.lanes.store(0, Release);
            for lane in &self.lane {
                lane.store(0, Release);
            }
        }
        if kind & armed::HANG != 0 {
            self.hang.set(None);
            self.hang_epoch.fetch_add(1, Release);
        }
        for (bit, trigger) in [
            (armed::FAIL, &self.fail),
            (armed::ABORT, &self.abort),
            (armed::CORRUPT, &self.corrupt),
            (armed::REWORD, &self.reword),
        ] {
            if kind & bit != 0 {
                trigger.set(None);
            }
        }
        if kind & armed::FAIL != 0 {
            self.fail_until.store(0, Release);
        }
    }

    pub(crate) fn counters(&self) -> [(&'static str, &AtomicU64); 8] {
        [
            ("calls", &self.calls),
            ("size_queries", &self.size_queries),
            ("injected", &self.injected),
            ("errors", &self.errors),
            ("delayed", &self.delayed),
            ("hung", &self.hung),
            ("corrupted", &self.corrupted),
            ("overlapped", &self.overlapped),
        ]
    }
}

impl State {
    /// Declares zeroed memory a state.
    pub fn declare(&self) {
        self.functions
            .store(u32::try_from(Function::COUNT).unwrap_or(0), Relaxed);
        self.layout.store(LAYOUT, Relaxed);
        self.magic.store(MAGIC, Release);
    }

    /// Whether it is one that this program understands.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.magic.load(Acquire) != MAGIC {
            return Err("it is not a state file; `fault-ctl FILE create` makes one".to_owned());
        }
        let functions = u32::try_from(Function::COUNT).unwrap_or(0);
        if self.layout.load(Relaxed) != LAYOUT || self.functions.load(Relaxed) != functions {
            return Err("it was made by another version of fault-ctl".to_owned());
        }
        Ok(())
    }

    /// What is known about `function`.
    pub fn cell(&self, function: Function) -> &Cell {
        &self.cells[function as usize]
    }

    /// A place for this process, cleared.
    pub fn register(&self, pid: u32) -> &Process {
        let place = self.next_process.fetch_add(1, AcqRel) as usize % PROCESSES;
        let process = &self.processes[place];
        process.sessions.store(0, Release);
        process.pid.store(pid, Release);
        process
    }

    /// Ends the failures that last until `function` succeeds.
    pub(crate) fn cured_by(&self, function: Function) {
        for cell in &self.cells {
            if Function::ALL.get((cell.fail_until.load(Acquire) as usize).wrapping_sub(1))
                == Some(&function)
            {
                cell.disarm(armed::FAIL);
            }
        }
    }

    /// Sets all counters to zero.
    pub fn zero_counts(&self) {
        for function in Function::ALL {
            for (_, counter) in self.cell(*function).counters() {
                counter.store(0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(strike: Strike, calls: usize) -> Vec<bool> {
        let trigger = Trigger(AtomicU64::new(strike.pack()));
        (0..calls).map(|_| trigger.pull().is_some()).collect()
    }

    #[test]
    fn a_trigger_strikes_after_so_many_calls_so_many_times() {
        let strike = Strike {
            code: 7,
            after: 2,
            times: 3,
        };
        assert_eq!(
            strikes(strike, 7),
            [false, false, true, true, true, false, false]
        );
        let strike = Strike {
            code: 7,
            after: 1,
            times: Strike::FOR_EVER,
        };
        assert_eq!(strikes(strike, 4), [false, true, true, true]);
    }

    #[test]
    fn threads_share_a_trigger_exactly() {
        let trigger = Trigger(AtomicU64::new(0));
        trigger.set(Some(Strike {
            code: 7,
            after: 100,
            times: 1000,
        }));
        let struck = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        struck.fetch_add(u64::from(trigger.pull() == Some(7)), Relaxed);
                    }
                });
            }
        });
        assert_eq!(struck.into_inner(), 1000);
    }
}
