//! Rules that were learned from a module, and a profile's file made of them.

use serde_json::json;

use super::super::Role;
use super::{Condition, Rule, Rules, never};

/// Which argument says what a call is for, and whether it has 64 bits: the others are addresses,
/// lengths and descriptors, which differ from run to run.
const TELLING: [(&str, u8, bool); 16] = [
    ("clone", 0, true),
    ("fcntl", 1, false),
    ("ioctl", 1, false),
    ("madvise", 2, false),
    ("mmap", 2, false),
    ("mmap", 3, false),
    ("mprotect", 2, false),
    ("open", 1, false),
    ("openat", 2, false),
    ("prctl", 0, false),
    ("prlimit64", 0, false),
    ("rt_sigaction", 0, false),
    ("socket", 0, false),
    ("socketpair", 0, false),
    ("tgkill", 2, false),
    ("personality", 0, false),
];

/// clone(2): a thread, and in our memory. Anything else is a process.
const CLONE_THREAD_AND_VM: u64 = 0x10100;

/// Calls that our own keeper makes after it was sealed, whatever its module; some so rarely (a panic, a
/// SIGSTOP, memory that runs short) that no learning sees them.
const OURS: [&str; 22] = [
    "recvfrom",
    "sendto",
    "write",
    "ppoll",
    "futex",
    "getrandom",
    "clock_gettime",
    "mmap",
    "mprotect",
    "munmap",
    "madvise",
    "brk",
    "rt_sigprocmask",
    "rt_sigaction",
    "rt_sigreturn",
    "getpid",
    "gettid",
    "tgkill",
    "sigaltstack",
    "exit_group",
    "restart_syscall",
    "clone3",
];

/// What of `args` says what the call `name` is for: index and value.
pub(crate) fn telling(name: &str, args: &[u64; 6]) -> Vec<(u8, u64)> {
    let of_it = TELLING.iter().filter(|(call, ..)| *call == name);
    of_it
        .map(|(_, index, wide)| {
            let value = args[usize::from(*index)];
            let value = if *wide {
                value
            } else {
                value & u64::from(u32::MAX)
            };
            (*index, value)
        })
        .collect()
}

/// Whether no keeper may ever make this call, whatever its profile says.
pub(crate) fn is_never_allowed(name: &str, telling: &[(u8, u64)]) -> bool {
    let process = |(_, flags): &(u8, u64)| flags & CLONE_THREAD_AND_VM != CLONE_THREAD_AND_VM;
    never::is_allowed_never(Role::Keeper, name) || (name == "clone" && telling.iter().any(process))
}

impl Rule {
    /// A rule for a call that was seen, without its reason: whoever reviews it writes that.
    pub(crate) fn learned(name: &str, telling: &[(u8, u64)]) -> Self {
        let wide = |index| TELLING.contains(&(name, index, true));
        let args: Vec<_> = telling
            .iter()
            .map(|(index, value)| Condition {
                index: *index,
                r#type: if wide(*index) { "qword" } else { "dword" }.into(),
                op: json!("eq"),
                val: *value,
                comment: String::new(),
            })
            .collect();
        Self {
            syscall: name.to_owned(),
            args: (!args.is_empty()).then_some(args),
            comment: String::new(),
        }
    }

    /// Whether it is about a call of our own keeper, not of a module.
    pub(crate) fn is_ours(&self) -> bool {
        OURS.contains(&self.syscall.as_str())
    }

    /// Whether it allows the call `name` with the arguments that were kept of it. A condition on another
    /// argument does not hold.
    pub(crate) fn allows(&self, name: &str, telling: &[(u8, u64)]) -> bool {
        let holds = |condition: &Condition| {
            let found = telling.iter().find(|(index, _)| *index == condition.index);
            found.is_some_and(|(_, value)| condition.holds(*value))
        };
        self.syscall == name && self.args.iter().flatten().all(holds)
    }
}

impl Condition {
    fn holds(&self, value: u64) -> bool {
        let bits = if self.r#type == "qword" {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        let (value, wanted) = (value & bits, self.val & bits);
        match self.op.as_str() {
            Some("eq") => value == wanted,
            Some("ne") => value != wanted,
            Some("lt") => value < wanted,
            Some("le") => value <= wanted,
            Some("gt") => value > wanted,
            Some("ge") => value >= wanted,
            Some(_) => false,
            None => {
                let mask = self.op.get("masked_eq").and_then(serde_json::Value::as_u64);
                mask.is_some_and(|mask| value & mask == wanted & mask)
            }
        }
    }
}

/// The file of a keeper's profile with `rules`, a line a rule.
pub(crate) fn draft(rules: &Rules) -> Result<String, serde_json::Error> {
    let mut filters = Vec::new();
    for (part, filter) in rules.filters() {
        let lines: Result<Vec<_>, _> = filter.filter.iter().map(serde_json::to_string).collect();
        filters.push(format!(
            "  {}: {{\n    \"mismatch_action\": {},\n    \"match_action\": {},\n    \"filter\": [\n      {}\n    ]\n  }}",
            json!(part.name(Role::Keeper)),
            filter.mismatch_action,
            filter.match_action,
            lines?.join(",\n      ")
        ));
    }
    Ok(format!("{{\n{}\n}}\n", filters.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::super::Given;
    use super::*;
    use crate::sandbox::{Maker, Profile};

    fn profile() -> Profile {
        Profile::keeper(Maker::SoftHsm, None).unwrap()
    }

    fn softhsm() -> Rules {
        profile().rules
    }

    #[test]
    fn our_own_calls_stand_in_the_measured_profile() {
        let Rules { allowed, answered } = softhsm();
        let all = allowed.into_iter().chain(answered.into_values().flatten());
        let ours: Vec<_> = all.filter(Rule::is_ours).collect();
        for call in OURS {
            assert!(ours.iter().any(|rule| rule.syscall == call), "{call}");
        }
        // What is checked of them is what a learned rule can tell apart.
        for rule in &ours {
            for condition in rule.args.iter().flatten() {
                let told = |(name, index, _): &(&str, u8, bool)| {
                    rule.syscall == *name && *index == condition.index
                };
                assert!(TELLING.iter().any(told), "{}", rule.syscall);
            }
        }
    }

    #[test]
    fn a_call_is_allowed_by_the_rule_for_its_arguments_alone() {
        let rules = softhsm().allowed;
        let allowed = |name, args: [u64; 6]| {
            let telling = telling(name, &args);
            rules.iter().any(|rule| rule.allows(name, &telling))
        };
        assert!(allowed("futex", [0; 6]));
        assert!(allowed("mmap", [0, 0, 3, 0x22, 0, 0]));
        assert!(!allowed("mmap", [0, 0, 5, 0x22, 0, 0]), "executable");
        assert!(!allowed("mmap", [0, 0, 3, 0x02, 0, 0]), "a file");
        assert!(allowed("openat", [0, 0, 0x80000, 0, 0, 0]));
        assert!(!allowed("openat", [0, 0, 0x80001, 0, 0, 0]), "for writing");
        assert!(!allowed("openat", [0, 0, 0x80200, 0, 0, 0]), "emptied");
        // Above the 32 bits of an int there may be anything.
        assert!(allowed("fcntl", [3, 7 | 1 << 40, 0, 0, 0, 0]));
        assert!(!allowed("fcntl", [3, 8, 0, 0, 0, 0]));
        assert!(!allowed("socket", [1, 0, 0, 0, 0, 0]), "it is answered");
    }

    #[test]
    fn processes_are_never_allowed_and_threads_may_be_learned() {
        let never =
            |name, first: u64| is_never_allowed(name, &telling(name, &[first, 0, 0, 0, 0, 0]));
        assert!(never("execve", 0));
        assert!(never("clone", 0x0120_0011), "fork(3)");
        assert!(never("clone", 0x4111), "posix_spawn(3)");
        assert!(!never("clone", 0x003d_0f00), "pthread_create(3)");
        assert!(!never("read", 0));
    }

    #[test]
    fn a_draft_is_refused_until_every_reason_is_there() {
        let rules = |reason: &str| {
            let mut rules = softhsm();
            rules.allowed.retain(Rule::is_ours);
            let mut learned = Rule::learned("fcntl", &[(1, 1030)]);
            learned.comment = reason.to_owned();
            rules.allowed.push(learned);
            rules
        };
        let arch = std::env::consts::ARCH;
        let parse =
            |text: &str| Profile::parse("draft", Role::Keeper, arch, text, &Given::default());
        let text = draft(&rules("")).unwrap();
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("fcntl: no reason"), "{error}");
        let text = draft(&rules("x")).unwrap();
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("fcntl: a condition does not say"), "{error}");
        let text = text.replace("\"comment\":\"\"", "\"comment\":\"F_DUPFD_CLOEXEC\"");
        let profile = parse(&text).unwrap();
        assert_eq!(profile.answered(), self::profile().answered());
    }
}
