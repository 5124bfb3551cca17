//! The frames that one side of an HTTP/2 connection sends, counted as they come: what costs it little and us
//! more (SETTINGS, PING, PRIORITY and unknown ones, resets; RFC 9113 §10.5) ends the connection when there is
//! too much of it. What goes on for calls pays for such frames. Header bombs, floods of CONTINUATION and of
//! empty DATA frames are bounded by h2 itself.

mod bucket;

use std::io;
use std::time::Instant;

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
const DATA: u8 = 0x0;
/// A frame that does nothing for a call.
const IDLE_FRAME: u32 = 10;
/// A call that is taken back makes work of two sides vain (CVE-2023-44487); one that is not makes good for
/// it: many calls may well run into their deadlines at once.
const RESET: u32 = 2;
const CALL: u32 = 1;

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

    /// Counts the frames in the next `bytes`, and mends their authorities; the error ends the
    /// connection.
    pub(super) fn take(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
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
        Ok(())
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
                self.list = 0;
                self.lengthen(length)
            }
            CONTINUATION => self.lengthen(length),
            DATA if length > 0 => {
                self.idle.earn(IDLE_FRAME);
                Ok(())
            }
            // GOAWAY and WINDOW_UPDATE come as they need.
            DATA | 0x7 | 0x8 => Ok(()),
            _ if self.trusted => Ok(()),
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
    }
}

/// What ends a connection, in words that its calls may hear.
fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Behind the preface.
    fn begun() -> Frames {
        let mut frames = Frames::new(PREFACE, Instant::now());
        frames.take(&mut [0; PREFACE]).unwrap();
        frames
    }

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
        frame.resize(FRAME_HEAD + usize::from(length), 0xff);
        frame
    }

    #[test]
    fn a_flood_ends_the_connection_however_it_is_cut() {
        for kind in [0x2, 0x4, 0x6, 0xfa] {
            for cut in [1, 7, 1000] {
                let mut frames = Frames::new(PREFACE, Instant::now());
                frames.idle.refilled += Duration::from_secs(3600);
                let mut flood: Vec<u8> = [vec![0; PREFACE], frame(kind, 8).repeat(1001)].concat();
                let passed = flood
                    .chunks_mut(cut)
                    .map(|piece| frames.take(piece))
                    .take_while(Result::is_ok)
                    .count();
                // The whole head of the last frame, and not one byte before.
                assert_eq!(passed, (PREFACE + 1000 * 17 + 8) / cut, "{kind} {cut}");
            }
        }
    }

    /// Far in the future: nothing is forgiven for the time that the test takes.
    fn unforgiving() -> Frames {
        let mut frames = begun();
        frames.idle.refilled += Duration::from_secs(3600);
        frames.resets.refilled += Duration::from_secs(3600);
        frames
    }

    #[test]
    fn a_header_block_has_an_end_and_frames_of_who_is_trusted_cost_nothing() {
        let mut frames = begun();
        frames.bound(600);
        frames.trust();
        let whole = [frame(HEADERS, 200), frame(CONTINUATION, 200).repeat(2)].concat();
        for _ in 0..2000 {
            frames.take(&mut frame(0x6, 8).repeat(10)).unwrap();
            frames.take(&mut whole.clone()).unwrap();
        }
        let error = frames.take(&mut frame(CONTINUATION, 1)).unwrap_err();
        assert!(error.to_string().contains("limits.header_list_bytes"));
    }

    #[test]
    fn calls_are_never_a_flood() {
        let mut frames = unforgiving();
        for kind in [0x0, 0x1, 0x8, 0x9] {
            frames.take(&mut frame(kind, 200).repeat(9000)).unwrap();
        }
    }

    #[test]
    fn a_ping_a_round_trip_is_no_flood_whoever_sends_the_data() {
        let (ping, ack) = (frame(0x6, 8), 17);
        let mut frames = unforgiving();
        for _ in 0..20_000 {
            frames
                .take(&mut [frame(DATA, 1), ping.clone()].concat())
                .unwrap();
            frames.sent(ack);
        }
        let mut frames = unforgiving();
        for _ in 0..20_000 {
            // The shortest message of gRPC in a frame.
            frames.sent(ack + FRAME_HEAD + 5);
            frames.take(&mut ping.clone()).unwrap();
        }
        // The answers to PINGs alone do not pay for them, nor do empty frames.
        let mut frames = unforgiving();
        let flood = [ping.clone(), frame(DATA, 0)].concat();
        let passed = (0..20_000).take_while(|_| {
            frames.sent(ack);
            frames.take(&mut flood.clone()).is_ok()
        });
        assert!(passed.count() < 6_000);
    }

    #[test]
    fn calls_that_are_taken_back_are_a_flood_when_hardly_any_other_comes() {
        let call = |reset: bool| match reset {
            true => [frame(HEADERS, 30), frame(DATA, 9), frame(RST_STREAM, 4)].concat(),
            false => [frame(HEADERS, 30), frame(DATA, 9)].concat(),
        };
        let calls = |one_in: usize| {
            let mut frames = unforgiving();
            let calls = (0..50_000).map(|number| call(number % one_in == 0));
            let all = calls.map(|mut call| frames.take(&mut call));
            all.take_while(Result::is_ok).count()
        };
        assert_eq!(calls(2), 50_000);
        assert!(calls(1) <= 10_000);
    }

    #[test]
    fn authorities_are_mended_behind_padding_and_priority() {
        let block = [&[0x41, 3][..], b"a/b"].concat();
        let headers = |flags: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, HEADERS, flags, 0, 0, 0, 1][..], payload].concat()
        };
        let plain = headers(0, &block);
        let both = headers(
            PADDED | PRIORITY,
            &[&[4][..], &[0x41, 1, 0x41, 1, b'/'], &block, b"////"].concat(),
        );
        let cut_in_two = [headers(0, &block[..3]), {
            let mut rest = headers(0, &block[3..]);
            rest[3] = CONTINUATION;
            rest
        }]
        .concat();
        for sent in [plain, both, cut_in_two] {
            let mut expected = sent.clone();
            let slash = sent.windows(2).rposition(|pair| pair == b"a/");
            let slash = slash.unwrap_or(sent.len() - 3 - FRAME_HEAD - 2);
            let at = expected
                .iter()
                .enumerate()
                .position(|(at, byte)| *byte == b'/' && at > slash)
                .unwrap();
            expected[at] = b'-';
            for cut in [1, 4, 1000] {
                let mut frames = begun();
                frames.mend();
                let mut got = sent.clone();
                for piece in got.chunks_mut(cut) {
                    frames.take(piece).unwrap();
                }
                assert_eq!(got, expected);
            }
        }
    }
}
