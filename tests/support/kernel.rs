//! A kernel that lacks a call: a filter answers in its place.

use std::thread;

/// Runs `work` in a thread in which every call that `rule` (seccompiler's JSON) is about fails with `errno`, and in
/// its children.
pub fn without<T: Send>(rule: &str, errno: i32, work: impl FnOnce() -> T + Send) -> T {
    let filter = format!(
        r#"{{"filter": {{"mismatch_action": "allow", "match_action": {{"errno": {errno}}},
            "filter": [{rule}]}}}}"#
    );
    let arch = std::env::consts::ARCH.try_into().expect("a known machine");
    let mut filters = seccompiler::compile_from_json(filter.as_bytes(), arch).expect("it compiles");
    let filter = filters.remove("filter").expect("it is there");
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            seccompiler::apply_filter(&filter).expect("it is applied");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
