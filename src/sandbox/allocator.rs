//! glibc's allocator, pinned for a process that is sealed: what it does is set at the start and not learned from what
//! is freed, and what it asks the system for it has asked before the seal.

use std::hint::black_box;
use std::io;
use std::thread;

/// Bytes: larger pieces are mappings of their own (mallopt(3), M_MMAP_THRESHOLD).
const MAPPED: usize = 512 << 10;
/// Bytes at the end of an arena that go back to the system (mallopt(3), M_TRIM_THRESHOLD).
const TRIMMED: usize = 1 << 20;

/// The variable, and what it is for a role: thresholds that are set do not move (mallopt(3), NOTES).
pub(crate) fn pinned() -> (String, String) {
    let text =
        format!("glibc.malloc.mmap_threshold={MAPPED}:glibc.malloc.trim_threshold={TRIMMED}");
    ("GLIBC_TUNABLES".to_owned(), text)
}

/// Has an arena trimmed. At the first time glibc asks `/proc/sys/vm/overcommit_memory` how memory may be given back,
/// and keeps the answer: madvise(2), where it may not ask.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn trim_once() -> io::Result<()> {
    const PIECE: usize = MAPPED / 4;
    // The first arena, of the main thread, is trimmed by brk(2) and without a question.
    let trimming = thread::Builder::new().spawn(|| {
        let pieces: Vec<Vec<u8>> = (0..4 * TRIMMED / PIECE)
            .map(|_| Vec::with_capacity(PIECE))
            .collect();
        drop(black_box(pieces));
    })?;
    trimming
        .join()
        .map_err(|_panic| io::Error::other("the thread that trims an arena panicked (a bug)"))
}
