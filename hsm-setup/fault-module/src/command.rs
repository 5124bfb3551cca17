//! Rules in words: what `fault-ctl` is told and what a settings file says, and their effect on the
//! shared state.

use std::sync::atomic::Ordering::{AcqRel, Release};
use std::time::Duration;

use cryptoki_sys::{
    CKF_PROTECTED_AUTHENTICATION_PATH, CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY,
    CKF_USER_PIN_LOCKED, CKF_USER_PIN_TO_BE_CHANGED,
};

use crate::clock;
use crate::codes;
use crate::functions::{Class, Function};
use crate::state::{MAX_LANES, State, Strike, armed, session_rule};

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Calls take `delay`, give or take `jitter`; with `sessions`, so many are served at once.
    Delay {
        /// Of which functions.
        functions: Vec<Function>,
        /// How long a call takes in all.
        delay: Duration,
        /// By how much that varies, up and down.
        jitter: Duration,
        /// How many calls are served at once; 0: all.
        sessions: u32,
    },
    /// Calls are struck as `strike` says.
    Strike {
        /// Of which functions.
        functions: Vec<Function>,
        /// In which way.
        kind: Kind,
        /// Which calls, and with which code.
        strike: Strike,
        /// The function whose next success ends it: C_Login or C_Initialize.
        until: Option<Function>,
    },
    /// Hung calls go on, and no more hang.
    Release(Vec<Function>),
    /// Flags that C_GetTokenInfo adds.
    PinFlags(u64),
    /// How many sessions a process may have open on a slot.
    MaxSessions(Option<u32>),
    /// Sessions die when idle for so long, and then answer with a code.
    IdleDeath(Option<(Duration, u32)>),
    /// The token is logged out behind the application's back.
    Logout {
        /// What the use of keys answers until the next login; `None`: the module's own words.
        code: Option<u32>,
        /// Whether all sessions are closed too.
        close_sessions: bool,
    },
    /// No rules any more: of some functions, or at all.
    Clear(Option<Vec<Function>>),
    /// All counters to zero.
    Zero,
}

/// In which way a call is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It answers with the code; the wrapped module is not called.
    Fail,
    /// When the wrapped module fails, it answers with the code.
    Reword,
    /// It does not return until it is released.
    Hang,
    /// The process ends by SIGABRT.
    Abort,
    /// One bit of the signature is wrong.
    Corrupt,
}

/// The names of the PIN flags.
pub(crate) const PIN_FLAGS: &[(&str, u64)] = &[
    ("count-low", CKF_USER_PIN_COUNT_LOW),
    ("final-try", CKF_USER_PIN_FINAL_TRY),
    ("locked", CKF_USER_PIN_LOCKED),
    ("to-be-changed", CKF_USER_PIN_TO_BE_CHANGED),
    ("keypad", CKF_PROTECTED_AUTHENTICATION_PATH),
];

impl Command {
    /// Understands the words of one order.
    ///
    /// # Errors
    /// A text that says which word is wrong and what to write instead.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let (verb, rest) = words.split_first().ok_or("say what to do")?;
        let mut words = Words::of(rest);
        let command = match *verb {
            "set" => words.delay(),
            "fail" => words.strike(Kind::Fail),
            "reword" => words.strike(Kind::Reword),
            "hang" => words.strike(Kind::Hang),
            "abort" => words.strike(Kind::Abort),
            "corrupt" => words.strike(Kind::Corrupt),
            "release" => Ok(Self::Release(functions(words.next().unwrap_or("all"))?)),
            "pin-flags" => words.pin_flags(),
            "max-sessions" => words.max_sessions(),
            "idle-death" => words.idle_death(),
            "logout" => words.logout(),
            "clear" => Ok(Self::Clear(words.next().map(functions).transpose()?)),
            "zero-counts" => Ok(Self::Zero),
            other => Err(format!(
                "unknown order `{other}`; `fault-ctl --help` lists them"
            )),
        }?;
        words.finish()?;
        Ok(command)
    }

    /// Makes it so, at once and for all processes that use `state`.
    pub fn apply(&self, state: &State) {
        match self {
            Self::Delay {
                functions,
                delay,
                jitter,
                sessions,
            } => {
                for function in functions {
                    let cell = state.cell(*function);
                    cell.disarm(armed::DELAY);
                    cell.delay_ns.store(nanoseconds(*delay), Release);
                    cell.jitter_ns.store(nanoseconds(*jitter), Release);
                    cell.lanes.store(*sessions, Release);
                    if !delay.is_zero() {
                        cell.arm(armed::DELAY);
                    }
                }
            }
            Self::Strike {
                functions,
                kind,
                strike,
                until,
            } => {
                for function in functions {
                    let cell = state.cell(*function);
                    if *kind == Kind::Fail {
                        let cure = until.map_or(0, |until| until as u32 + 1);
                        cell.fail_until.store(cure, Release);
                    }
                    let (bit, trigger) = match kind {
                        Kind::Fail => (armed::FAIL, &cell.fail),
                        Kind::Reword => (armed::REWORD, &cell.reword),
                        Kind::Hang => (armed::HANG, &cell.hang),
                        Kind::Abort => (armed::ABORT, &cell.abort),
                        Kind::Corrupt => (armed::CORRUPT, &cell.corrupt),
                    };
                    trigger.set(Some(*strike));
                    cell.arm(bit);
                }
            }
            Self::Release(functions) => {
                for function in functions {
                    state.cell(*function).disarm(armed::HANG);
                }
            }
            Self::PinFlags(flags) => state.pin_flags.store(*flags, Release),
            Self::MaxSessions(limit) => {
                state
                    .max_sessions
                    .store(limit.map_or(0, |limit| u64::from(limit) + 1), Release);
            }
            Self::IdleDeath(rule) => idle_death(state, *rule),
            Self::Logout {
                code,
                close_sessions,
            } => {
                state.logout_code.store(code.unwrap_or(0), Release);
                state
                    .logout_closes
                    .store(u32::from(*close_sessions), Release);
                state.logout_generation.fetch_add(1, AcqRel);
                state.session_rules.fetch_or(session_rule::LOGOUT, AcqRel);
            }
            Self::Clear(Some(functions)) => {
                for function in functions {
                    state.cell(*function).disarm(u32::MAX);
                }
            }
            Self::Clear(None) => {
                for function in Function::ALL {
                    state.cell(*function).disarm(u32::MAX);
                }
                state.pin_flags.store(0, Release);
                state.max_sessions.store(0, Release);
                state.logout_code.store(0, Release);
                idle_death(state, None);
            }
            Self::Zero => state.zero_counts(),
        }
    }
}

fn idle_death(state: &State, rule: Option<(Duration, u32)>) {
    state
        .session_rules
        .fetch_and(!session_rule::IDLE_DEATH, AcqRel);
    if let Some((idle, code)) = rule {
        state.idle_ns.store(nanoseconds(idle), Release);
        state.idle_since.store(clock::now(), Release);
        state.idle_code.store(code, Release);
        state
            .session_rules
            .fetch_or(session_rule::IDLE_DEATH, AcqRel);
    }
}

/// The words of an order: `key=value` apart from the others.
struct Words<'a> {
    plain: std::vec::IntoIter<&'a str>,
    keyed: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn of(words: &[&'a str]) -> Self {
        let plain: Vec<_> = words
            .iter()
            .copied()
            .filter(|word| !word.contains('='))
            .collect();
        let keyed = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .collect();
        Self {
            plain: plain.into_iter(),
            keyed,
        }
    }

    fn next(&mut self) -> Option<&'a str> {
        self.plain.next()
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let place = self.keyed.iter().position(|(name, _)| *name == key)?;
        Some(self.keyed.remove(place).1)
    }

    fn finish(mut self) -> Result<(), String> {
        match (self.plain.next(), self.keyed.first()) {
            (Some(word), _) => Err(format!("`{word}` is one word too many")),
            (None, Some((key, _))) => Err(format!("`{key}=` does not belong here")),
            (None, None) => Ok(()),
        }
    }

    fn functions(&mut self) -> Result<Vec<Function>, String> {
        functions(
            self.next()
                .ok_or("name a function, such as C_Sign, a comma list, or `all`")?,
        )
    }

    fn count(&mut self, key: &str) -> Result<Option<u16>, String> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let count = value.parse().ok().filter(|count| *count < Strike::FOR_EVER);
        count
            .map(Some)
            .ok_or_else(|| format!("`{key}={value}`: a number from 0 to 65534"))
    }

    fn delay(&mut self) -> Result<Command, String> {
        let functions = self.functions()?;
        let delay = self
            .take("delay")
            .ok_or("`set` needs delay=, such as delay=20ms")?;
        let delay = duration(delay)?;
        let jitter = self.take("jitter").map_or(Ok(Duration::ZERO), duration)?;
        if jitter > delay {
            return Err("jitter= is larger than delay=".to_owned());
        }
        let sessions = match self.take("sessions") {
            None => 0,
            Some(value) => value
                .parse()
                .ok()
                .filter(|sessions| (1..=MAX_LANES).contains(&(*sessions as usize)))
                .ok_or_else(|| format!("`sessions={value}`: a number from 1 to {MAX_LANES}"))?,
        };
        Ok(Command::Delay {
            functions,
            delay,
            jitter,
            sessions,
        })
    }

    fn strike(&mut self, kind: Kind) -> Result<Command, String> {
        let functions = match (kind, self.next()) {
            (Kind::Corrupt, None) => functions("C_Sign,C_SignFinal")?,
            (_, Some(names)) => functions(names)?,
            (_, None) => {
                return Err("name a function, such as C_Sign, a comma list, or `all`".to_owned());
            }
        };
        if let Some(other) = functions
            .iter()
            .find(|function| kind == Kind::Corrupt && !function.signs())
        {
            return Err(format!("{} returns no signature to corrupt", other.name()));
        }
        let code = match kind {
            Kind::Fail | Kind::Reword => {
                let code = self.next();
                codes::parse(code.ok_or("it needs a code, such as CKR_DEVICE_ERROR")?)?
            }
            _ => 0,
        };
        // A process aborts once; its replacement lives, unless told otherwise.
        let usual = if kind == Kind::Abort {
            1
        } else {
            Strike::FOR_EVER
        };
        let times = match self.keyed.contains(&("times", "forever")) {
            true => self.take("times").map(|_| Strike::FOR_EVER),
            false => self.count("times")?,
        };
        let strike = Strike {
            code,
            times: times.unwrap_or(usual),
            after: self.count("after")?.unwrap_or(0),
        };
        let until = match self.take("until").map(|name| (name, Function::named(name))) {
            None => None,
            Some((_, Some(cure @ (Function::C_Login | Function::C_Initialize))))
                if kind == Kind::Fail =>
            {
                Some(cure)
            }
            Some((name, _)) => {
                return Err(format!(
                    "`until={name}`: only `fail` ends so, with C_Login or C_Initialize"
                ));
            }
        };
        Ok(Command::Strike {
            functions,
            kind,
            strike,
            until,
        })
    }

    fn pin_flags(&mut self) -> Result<Command, String> {
        let names: Vec<_> = self
            .plain
            .by_ref()
            .flat_map(|word| word.split(','))
            .collect();
        let mut flags = 0;
        for name in &names {
            let known = PIN_FLAGS.iter().find(|(known, _)| known == name);
            match known {
                Some((_, flag)) => flags |= flag,
                None if *name == "none" && names.len() == 1 => {}
                None => {
                    let known: Vec<_> = PIN_FLAGS.iter().map(|(known, _)| *known).collect();
                    return Err(format!(
                        "unknown PIN flag `{name}`: {} or none",
                        known.join(", ")
                    ));
                }
            }
        }
        if names.is_empty() {
            return Err("say which PIN flags, or `none`".to_owned());
        }
        Ok(Command::PinFlags(flags))
    }

    fn max_sessions(&mut self) -> Result<Command, String> {
        let limit = match self.next().ok_or("say how many, or `none`")? {
            "none" => None,
            word => Some(word.parse().map_err(|error| format!("`{word}`: {error}"))?),
        };
        Ok(Command::MaxSessions(limit))
    }

    fn idle_death(&mut self) -> Result<Command, String> {
        let idle = match self
            .next()
            .ok_or("say after how long, such as 500ms, or `none`")?
        {
            "none" => return Ok(Command::IdleDeath(None)),
            word => duration(word)?,
        };
        let code = codes::parse(self.next().unwrap_or("CKR_SESSION_HANDLE_INVALID"))?;
        Ok(Command::IdleDeath(Some((idle, code))))
    }

    fn logout(&mut self) -> Result<Command, String> {
        let words: Vec<_> = self.plain.by_ref().collect();
        let close_sessions = words.contains(&"close-sessions");
        let mut code = Some(codes::parse("CKR_USER_NOT_LOGGED_IN")?);
        for word in words.iter().filter(|word| **word != "close-sessions") {
            code = if *word == "native" {
                None
            } else {
                Some(codes::parse(word)?)
            };
        }
        Ok(Command::Logout {
            code,
            close_sessions,
        })
    }
}

fn functions(names: &str) -> Result<Vec<Function>, String> {
    if names == "all" {
        let talks = |function: &Function| function.class() != Class::Plain;
        return Ok(Function::ALL.iter().copied().filter(talks).collect());
    }
    let named = |name| {
        Function::named(name).ok_or_else(|| {
            format!("unknown function `{name}`: a name of PKCS#11 such as C_Sign, a comma list, or `all`")
        })
    };
    names.split(',').map(named).collect()
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: Option<u64> = digits
        .parse()
        .ok()
        .filter(|number| *number <= 1_000_000_000);
    let duration = number.and_then(|number| match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    });
    duration.ok_or_else(|| format!("`{text}` is no duration: 500us, 20ms or 3s"))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn the_orders_of_the_manual_are_understood() {
        assert_eq!(
            parse("set C_Sign delay=20ms sessions=8"),
            Ok(Command::Delay {
                functions: vec![Function::C_Sign],
                delay: Duration::from_millis(20),
                jitter: Duration::ZERO,
                sessions: 8
            })
        );
        assert_eq!(
            parse("fail C_Sign,C_SignInit CKR_DEVICE_ERROR times=3 after=2"),
            Ok(Command::Strike {
                functions: vec![Function::C_Sign, Function::C_SignInit],
                kind: Kind::Fail,
                strike: Strike {
                    code: 0x30,
                    times: 3,
                    after: 2
                },
                until: None,
            })
        );
        for line in [
            "hang sign",
            "reword C_Login 0x80000001",
            "fail C_Sign CKR_DEVICE_ERROR until=C_Login",
            "fail all CKR_GENERAL_ERROR until=C_Initialize",
            "release",
            "corrupt",
            "corrupt C_Sign times=forever",
            "pin-flags locked,count-low",
            "pin-flags none",
            "max-sessions 2",
            "max-sessions none",
            "abort C_Sign after=10",
            "idle-death 500ms CKR_SESSION_HANDLE_INVALID",
            "idle-death none",
            "logout",
            "logout native close-sessions",
            "logout CKR_GENERAL_ERROR",
            "clear",
            "clear C_Sign",
            "zero-counts",
            "fail all CKR_DEVICE_REMOVED",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "",
            "set C_Sign",
            "set C_Sign delay=20",
            "set C_Sign delay=20ms sessions=0",
            "set C_Sign delay=20ms jitter=30ms",
            "set C_Sign delay=20ms session=8",
            "fail C_Sign",
            "fail C_Sgin CKR_DEVICE_ERROR",
            "fail C_Sign CKR_OK",
            "reword C_Login",
            "fail C_Sign CKR_DEVICE_ERROR until=C_Sign",
            "hang C_Sign until=C_Login",
            "fail C_Sign CKR_DEVICE_ERROR times=65535",
            "fail C_Sign CKR_DEVICE_ERROR C_SignInit",
            "corrupt C_Verify",
            "pin-flags lockd",
            "pin-flags",
            "max-sessions -1",
            "explode",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn all_leaves_the_module_itself_alone() {
        let all = functions("all").unwrap();
        assert!(all.contains(&Function::C_OpenSession) && !all.contains(&Function::C_Initialize));
    }
}
