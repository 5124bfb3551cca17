//! A panic is a bug in the one process that must not have any: it ends the role as SIGABRT, and the
//! supervisor starts another. Unwinding would go on with state that nobody thought of.

use crate::telemetry;

/// From now on a panic writes one line and aborts: no backtrace, which opens files, and no
/// unwinding. In a library's role too, whatever its `panic` setting is.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let line = format!(
            "fastness[{}] thread {}: {panic}",
            std::process::id(),
            thread.name().unwrap_or("?")
        );
        telemetry::write_or_drop((line.replace('\n', " ") + "\n").into_bytes());
        std::process::abort();
    }));
}
