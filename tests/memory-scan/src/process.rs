//! A stopped process and its memory (proc(5)).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::Needles;

const PAGE: u64 = 4096;
/// So much is read at a time.
const BUFFER: usize = 4 << 20;
/// How much of the buffer before is searched again, so that nothing hides across the seam.
const SEAM: usize = 8;

/// Which mappings are read. Pages that were never touched are not: there is nothing in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Whatever the process can have written: writable, or of no file (heap, stacks, allocator).
    Written,
    /// And code and constants of files.
    All,
}

/// A process that stands still (SIGSTOP); it goes on when this is dropped.
pub struct Stopped {
    pid: u32,
}

/// What was found in one snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Which secrets, and how much of each.
    pub hits: Vec<crate::Hit>,
    /// Bytes that were read.
    pub read: u64,
    /// Bytes of pages that are there but cannot be read, by the name of their mapping.
    pub unreadable: Vec<(String, u64)>,
}

struct Mapping {
    start: u64,
    end: u64,
    written: bool,
    name: String,
}

impl Stopped {
    /// Stops a process and waits until every thread of it stands still.
    ///
    /// # Errors
    /// When it is gone, or not ours to stop.
    pub fn stop(pid: u32) -> io::Result<Self> {
        kill_process(of(pid)?, Signal::STOP)?;
        let stopped = Self { pid };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = task?.path().join("stat");
            while !stands_still(&stat)? {
                std::thread::yield_now();
            }
        }
        Ok(stopped)
    }

    /// Looks for `needles` in its memory.
    ///
    /// # Errors
    /// When its memory cannot be read at all: this takes CAP_SYS_PTRACE.
    pub fn look_for(&self, needles: &Needles, part: Part) -> io::Result<Snapshot> {
        let folder = format!("/proc/{}", self.pid);
        let memory = File::open(format!("{folder}/mem"))?;
        let pages = File::open(format!("{folder}/pagemap"))?;
        let mut snapshot = Snapshot::default();
        for mapping in mappings(&fs::read_to_string(format!("{folder}/maps"))?)? {
            if mapping.written || part == Part::All {
                read(&memory, &pages, &mapping, needles, &mut snapshot)?;
            }
        }
        snapshot.hits.sort();
        snapshot.hits.dedup();
        Ok(snapshot)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Ok(pid) = of(self.pid) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

fn of(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process has the id 0"))
}

fn stands_still(stat: &std::path::Path) -> io::Result<bool> {
    let stat = match fs::read_to_string(stat) {
        // A thread that ended meanwhile.
        Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => return Ok(true),
        other => other?,
    };
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    Ok(state.starts_with('T'))
}

fn mappings(maps: &str) -> io::Result<Vec<Mapping>> {
    let malformed = || io::Error::other("/proc/PID/maps is not as proc(5) says");
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?;
        let inode = fields.nth(2)?;
        let name = fields.next().unwrap_or("anonymous");
        Some(Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            written: rights.contains('w') || inode == "0",
            name: name.to_owned(),
        })
    };
    maps.lines()
        .map(|line| one(line).ok_or_else(malformed))
        .collect()
}

/// Reads the pages of a mapping that are there, run by run.
fn read(
    memory: &File,
    pages: &File,
    mapping: &Mapping,
    needles: &Needles,
    snapshot: &mut Snapshot,
) -> io::Result<()> {
    // Not a place in memory: the kernel's own page.
    if mapping.name == "[vsyscall]" {
        return Ok(());
    }
    let count = usize::try_from((mapping.end - mapping.start) / PAGE).map_err(io::Error::other)?;
    let mut entries = vec![0; count * 8];
    pages.read_exact_at(&mut entries, mapping.start / PAGE * 8)?;
    // Bit 63: in memory; bit 62: swapped out.
    let there = |entry: &[u8]| entry[7] & 0b1100_0000 != 0;
    let mut page = 0;
    while page < count {
        let run = entries[page * 8..]
            .chunks_exact(8)
            .take_while(|entry| there(entry))
            .count();
        let start = mapping.start + page as u64 * PAGE;
        search(
            memory,
            start,
            run * PAGE as usize,
            mapping,
            needles,
            snapshot,
        )?;
        page += run.max(1);
    }
    Ok(())
}

fn search(
    memory: &File,
    start: u64,
    length: usize,
    mapping: &Mapping,
    needles: &Needles,
    snapshot: &mut Snapshot,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min(length)];
    let mut done = 0;
    while done < length {
        let wanted = buffer.len().min(length - done);
        match memory.read_exact_at(&mut buffer[..wanted], start + done as u64) {
            Ok(()) => {
                snapshot.hits.extend(needles.search(&buffer[..wanted]));
                snapshot.read += wanted as u64;
            }
            // EIO, EFAULT: pages without a mapping in the kernel (memfd_secret(2), [vvar]).
            Err(error) if matches!(error.raw_os_error(), Some(5 | 14)) => {
                snapshot
                    .unreadable
                    .push((mapping.name.clone(), wanted as u64));
            }
            Err(error) => return Err(error),
        }
        if done + wanted == length {
            break;
        }
        done += wanted - SEAM;
    }
    Ok(())
}
