//! The frames that one side of an HTTP/2 connection sends, counted as they come: what costs it little and us
//! more (SETTINGS, PING, PRIORITY and unknown ones, resets, WINDOW_UPDATE; RFC 9113 §10.5) ends the connection when
//! there is too much of it. What goes on for calls pays for such frames. Header bombs, floods of CONTINUATION and of
//! empty DATA frames are bounded by h2 itself.

mod bucket;
#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use super::authority::Mender;
use bucket::Bucket;

/// What a client sends first (RFC 9113 §3.4).
pub(super) const PREFACE: usize = 24;
/// Length, type, flags, stream (RFC 9113 §4.1).
pub(super) const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
/// Flags of HEADERS (RFC 9113 §6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const DATA: u8 = 0x0;
/// A frame that does nothing for a call.
const IDLE_FRAME: u32 = 10;
/// A call that is taken back makes work of two sides vain (CVE-2023-44487); one that is not makes good for
/// it: many calls may well run into their deadlines at once.
const RESET: u32 = 2;
const CALL: u32 = 1;
/// WINDOW_UPDATE frames that are owed for a call that begins, and for each ten bytes that were sent, the shortest DATA
/// frame: one for the stream and one for the connection.
const UPDATES: u32 = 2;
const SHORTEST: usize = 10;
/// And those that may come unasked, at first and however much was sent before.
const UNASKED: u32 = 10_000;
const MOST_OWED: u32 = 1_000_000;

/// Frames of a call may still come for so long after it was ended: they were on the way. h2 remembers such calls
/// meanwhile, and holds what comes for one that it has forgotten against the other side.
pub(crate) const LATE: Duration = Duration::from_secs(10);

/// The most calls that may be taken back at once.
pub(crate) fn at_once() -> usize {
    usize::try_from(bucket::most(Duration::ZERO) / u128::from(RESET - CALL)).unwrap_or(usize::MAX)
}

/// How many calls h2 remembers so, each in half a KiB: as many as may be taken back in that time.
pub(crate) fn remembered() -> usize {
    usize::try_from(bucket::most(LATE) / u128::from(RESET - CALL)).unwrap_or(usize::MAX)
}

/// Where in the stream of frames we are, and what they have cost.
#[derive(Debug)]
pub(super) struct Frames {
    part: Part,
    head: [u8; FRAME_HEAD],
    /// How much of `head` is there.
    read: usize,
    /// Bytes that are still to come: of what does not concern us, of a header block, of padding.
    skip: usize,
    block: usize,
    padding: usize,
    idle: Bucket,
    resets: Bucket,
    /// WINDOW_UPDATE frames that may still come.
    updates: u32,
    /// Whether the first frame is still to come, which a server must begin with.
    opening: bool,
    /// Whether they cost nothing.
    trusted: bool,
    /// Bytes of the header block that is sent, and the most that it may have.
    list: usize,
    most: usize,
    mender: Option<Mender>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    PadLength,
    Skip,
    Block,
    Padding,
}

impl Frames {
    pub(super) fn new(skip: usize, now: Instant) -> Self {
        Self {
            part: if skip == 0 { Part::Head } else { Part::Skip },
            head: [0; FRAME_HEAD],
            read: 0,
            skip,
            block: 0,
            padding: 0,
            idle: Bucket::new(now),
            resets: Bucket::new(now),
            updates: UNASKED,
            opening: skip == 0,
            trusted: false,
            list: 0,
            most: usize::MAX,
            mender: None,
        }
    }

    /// What the other side sends before its first frame, while nothing has come.
    pub(super) fn preface(&self) -> usize {
        self.skip
    }

    /// Mends the authorities of calls from now on.
    pub(super) fn mend(&mut self) {
        self.mender = Some(Mender::default());
    }

    /// From now on frames cost nothing.
    pub(super) fn trust(&mut self) {
        self.trusted = true;
    }

    /// A header block of more than `most` bytes ends the connection from now on.
    pub(super) fn bound(&mut self, most: usize) {
        self.most = most;
    }

    /// Counts the frames in the next `bytes`, and mends their authorities; says whether a call is taken back in them.
    /// The error ends the connection.
    pub(super) fn take(&mut self, mut bytes: &mut [u8]) -> io::Result<bool> {
        let mut taken_back = false;
        while !bytes.is_empty() {
            let wanted = match self.part {
                Part::Head => FRAME_HEAD - self.read,
                Part::PadLength => 1,
                Part::Skip => self.skip,
                Part::Block => self.block,
                Part::Padding => self.padding,
            };
            let (part, rest) = bytes.split_at_mut(wanted.min(bytes.len()));
            bytes = rest;
            match self.part {
                Part::Head => {
                    self.head[self.read..self.read + part.len()].copy_from_slice(part);
                    self.read += part.len();
                    if self.read == FRAME_HEAD {
                        self.read = 0;
                        self.begin()?;
                        taken_back |= self.head[3] == RST_STREAM;
                    }
                }
                Part::PadLength => {
                    self.padding = usize::from(part[0]);
                    self.block = self.block.saturating_sub(self.padding);
                    self.part = Part::Skip;
                }
                Part::Skip => self.skip -= part.len(),
                Part::Block => {
                    self.block -= part.len();
                    if let Some(mender) = &mut self.mender {
                        mender.take(part);
                    }
                }
                Part::Padding => self.padding -= part.len(),
            }
            self.part = match self.part {
                Part::Skip if self.skip == 0 => Part::Block,
                part => part,
            };
            self.part = match self.part {
                Part::Block if self.block == 0 => Part::Padding,
                part => part,
            };
            self.part = match self.part {
                Part::Padding if self.padding == 0 => Part::Head,
                part => part,
            };
        }
        Ok(taken_back)
    }

    /// A frame begins.
    fn begin(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if std::mem::take(&mut self.opening) && kind != SETTINGS {
            return Err(broken("the other side does not speak HTTP/2"));
        }
        self.charge(kind, length)?;
        (self.part, self.skip, self.block, self.padding) = (Part::Skip, length, 0, 0);
        let Some(mender) = &mut self.mender else {
            return Ok(());
        };
        match kind {
            HEADERS => {
                mender.begin();
                let padded = flags & PADDED != 0;
                self.skip = if flags & PRIORITY != 0 { 5 } else { 0 };
                self.block = length.saturating_sub(self.skip + usize::from(padded));
                if padded {
                    self.part = Part::PadLength;
                }
            }
            CONTINUATION => (self.skip, self.block) = (0, length),
            _ => {}
        }
        Ok(())
    }

    /// The stream of frames ends here.
    pub(super) fn end(&self) -> io::Result<()> {
        match self.opening {
            true => Err(broken("it ended before the other side spoke HTTP/2")),
            false => Ok(()),
        }
    }

    /// What a frame costs, or makes good for.
    fn charge(&mut self, kind: u8, length: usize) -> io::Result<()> {
        match kind {
            HEADERS => {
                self.resets.earn(CALL);
                self.idle.earn(IDLE_FRAME);
                self.owe(1);
                self.list = 0;
                self.lengthen(length)
            }
            CONTINUATION => self.lengthen(length),
            DATA if length > 0 => {
                self.idle.earn(IDLE_FRAME);
                Ok(())
            }
            DATA | GOAWAY => Ok(()),
            _ if self.trusted => Ok(()),
            WINDOW_UPDATE => {
                let left = self.updates.checked_sub(1);
                self.updates = left.ok_or_else(|| broken("a flood of WINDOW_UPDATE frames"))?;
                Ok(())
            }
            RST_STREAM => self.resets.charge(RESET, Instant::now()),
            // SETTINGS, PING, PRIORITY and unknown ones.
            _ => self.idle.charge(IDLE_FRAME, Instant::now()),
        }
    }

    /// So many bytes more of a header block.
    fn lengthen(&mut self, bytes: usize) -> io::Result<()> {
        self.list += bytes;
        if self.list > self.most {
            return Err(broken(
                "a header block that is far above limits.header_list_bytes",
            ));
        }
        Ok(())
    }

    /// So many bytes were sent to the other side. Whoever receives data may well answer each round trip of
    /// it with a PING, to learn how much the way holds (grpc-go does). Half of them count, so that the
    /// answer to a PING, of 17 bytes, does not pay for it.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.idle.earn(u32::try_from(bytes / 2).unwrap_or(u32::MAX));
        self.owe(bytes / SHORTEST);
    }

    /// So many times [`UPDATES`] more may come.
    fn owe(&mut self, times: usize) {
        let more = u32::try_from(times).unwrap_or(u32::MAX);
        let updates = self.updates.saturating_add(more.saturating_mul(UPDATES));
        self.updates = updates.min(MOST_OWED);
    }
}

/// What ends a connection, in words that its calls may hear.
fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
