//! The counters and the rules in words: a table for people, JSON for programs.

use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use crate::codes;
use crate::command::PIN_FLAGS;
use crate::functions::Function;
use crate::state::{Cell, State, Strike, Trigger, armed, session_rule};

/// The functions that were called, one a line, and the processes that are there.
pub fn table(state: &State) -> String {
    let mut text = String::new();
    let names = state
        .cell(Function::C_Sign)
        .counters()
        .map(|(name, _)| name);
    line(&mut text, "function", names.map(str::to_owned));
    for (function, cell) in called(state) {
        line(
            &mut text,
            function.name(),
            cell.counters()
                .map(|(_, counter)| counter.load(Relaxed).to_string()),
        );
    }
    for (pid, sessions, alive) in processes(state) {
        let alive = if alive { "" } else { ", gone" };
        let _ = writeln!(text, "process {pid}: {sessions} sessions open{alive}");
    }
    text
}

fn line(text: &mut String, name: &str, cells: [String; 8]) {
    let _ = write!(text, "{name:<24}");
    for cell in cells {
        let _ = write!(text, " {cell:>12}");
    }
    text.push('\n');
}

/// The same as JSON: `{"functions": {"C_Sign": {"calls": …}}, "processes": [{"pid": …}]}`.
/// Functions that were never called are left out.
pub fn json(state: &State) -> String {
    let functions: Vec<_> = called(state)
        .map(|(function, cell)| {
            let counters = cell
                .counters()
                .map(|(name, counter)| format!("\"{name}\":{}", counter.load(Relaxed)));
            format!("\"{}\":{{{}}}", function.name(), counters.join(","))
        })
        .collect();
    let processes: Vec<_> = processes(state)
        .map(|(pid, sessions, alive)| {
            format!("{{\"pid\":{pid},\"sessions\":{sessions},\"alive\":{alive}}}")
        })
        .collect();
    format!(
        "{{\"functions\":{{{}}},\"processes\":[{}]}}\n",
        functions.join(","),
        processes.join(",")
    )
}

fn called(state: &State) -> impl Iterator<Item = (Function, &Cell)> {
    let cells = Function::ALL
        .iter()
        .map(|function| (*function, state.cell(*function)));
    cells.filter(|(_, cell)| cell.calls.load(Relaxed) > 0)
}

fn processes(state: &State) -> impl Iterator<Item = (u32, u32, bool)> {
    state.processes.iter().filter_map(|process| {
        let pid = process.pid.load(Acquire);
        let alive = Path::new(&format!("/proc/{pid}")).exists();
        (pid != 0).then(|| (pid, process.sessions.load(Acquire), alive))
    })
}

/// The rules in force, as the orders that make them; a strike shows what is left of it.
pub fn rules(state: &State) -> String {
    let mut text = String::new();
    for function in Function::ALL {
        let cell = state.cell(*function);
        let bits = cell.armed.load(Acquire);
        if bits & armed::DELAY != 0 {
            let _ = write!(
                text,
                "set {} delay={}",
                function.name(),
                time(&cell.delay_ns)
            );
            if cell.jitter_ns.load(Acquire) > 0 {
                let _ = write!(text, " jitter={}", time(&cell.jitter_ns));
            }
            if cell.lanes.load(Acquire) > 0 {
                let _ = write!(text, " sessions={}", cell.lanes.load(Acquire));
            }
            text.push('\n');
        }
        let strikes: [(u32, &str, &Trigger); 5] = [
            (armed::FAIL, "fail", &cell.fail),
            (armed::HANG, "hang", &cell.hang),
            (armed::ABORT, "abort", &cell.abort),
            (armed::CORRUPT, "corrupt", &cell.corrupt),
            (armed::REWORD, "reword", &cell.reword),
        ];
        for (bit, verb, trigger) in strikes {
            if let Some(strike) = trigger.peek().filter(|_| bits & bit != 0) {
                let cure = (cell.fail_until.load(Acquire) as usize).checked_sub(1);
                let until = cure
                    .filter(|_| bit == armed::FAIL)
                    .map(|cure| format!(" until={}", Function::ALL[cure].name()));
                let _ = writeln!(
                    text,
                    "{verb} {}{}{}",
                    function.name(),
                    strike_words(strike),
                    until.unwrap_or_default()
                );
            }
        }
    }
    let flags = state.pin_flags.load(Acquire);
    let names: Vec<_> = PIN_FLAGS
        .iter()
        .filter(|(_, flag)| flags & flag != 0)
        .map(|(name, _)| *name)
        .collect();
    if !names.is_empty() {
        let _ = writeln!(text, "pin-flags {}", names.join(","));
    }
    if let Some(limit) = state.max_sessions.load(Acquire).checked_sub(1) {
        let _ = writeln!(text, "max-sessions {limit}");
    }
    if state.session_rules.load(Acquire) & session_rule::IDLE_DEATH != 0 {
        let code = codes::name(state.idle_code.load(Acquire));
        let _ = writeln!(text, "idle-death {} {code}", time(&state.idle_ns));
    }
    text
}

fn strike_words(strike: Strike) -> String {
    let mut words = String::new();
    if strike.code != 0 {
        let _ = write!(words, " {}", codes::name(strike.code));
    }
    match strike.times {
        Strike::FOR_EVER => words.push_str(" times=forever"),
        times => {
            let _ = write!(words, " times={times}");
        }
    }
    if strike.after > 0 {
        let _ = write!(words, " after={}", strike.after);
    }
    words
}

fn time(nanoseconds: &std::sync::atomic::AtomicU64) -> String {
    let micros = Duration::from_nanos(nanoseconds.load(Acquire)).as_micros();
    match micros {
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1000) => format!("{}ms", micros / 1000),
        _ => format!("{micros}us"),
    }
}
