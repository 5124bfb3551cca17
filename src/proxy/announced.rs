//! What we say of header lists (SETTINGS_MAX_HEADER_LIST_SIZE, RFC 9113 §6.5.2). h2 says what it reads, which is more
//! than we pass on ([`super::header_lists`]); so ours is put in its place, in the first frame that we send.

use super::frames::FRAME_HEAD;

const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// Identifier and value (RFC 9113 §6.5.1).
const ENTRY: usize = 6;

/// Where in our first bytes we are.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    most: [u8; 4],
    /// Bytes before the frame: a client's preface.
    skip: usize,
    at: usize,
    length: usize,
    id: u16,
}

impl Announced {
    pub(super) fn new(most: u32, skip: usize) -> Self {
        Self {
            most: most.to_be_bytes(),
            skip,
            at: 0,
            length: 0,
            id: 0,
        }
    }

    /// Whether the frame is behind us.
    pub(super) fn is_done(&self) -> bool {
        self.at >= FRAME_HEAD && self.at == FRAME_HEAD + self.length
    }

    /// Goes on over `bytes`, and puts ours in place.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            if self.is_done() {
                return;
            }
            match self.at {
                ..3 => self.length = self.length << 8 | usize::from(*byte),
                3..FRAME_HEAD => {}
                at => match (at - FRAME_HEAD) % ENTRY {
                    0 | 1 => self.id = self.id << 8 | u16::from(*byte),
                    place if self.id == MAX_HEADER_LIST_SIZE => *byte = self.most[place - 2],
                    _ => {}
                },
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_value_changes_however_it_is_cut() {
        let settings = |list: u32| {
            let entry =
                |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
            let entries = [
                entry(0x4, 6),
                entry(MAX_HEADER_LIST_SIZE, list),
                entry(0x5, 7),
            ];
            let head = [0, 0, 18, 4, 0, 0, 0, 0, 0];
            let next = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 6, 1, 2, 3, 4];
            [&[9; 24][..], &head, &entries.concat(), &next].concat()
        };
        for cut in [1, 5, 100] {
            let mut announced = Announced::new(16_384, 24);
            let mut sent = settings(99_999);
            for piece in sent.chunks_mut(cut) {
                announced.pass(piece);
            }
            assert_eq!(sent, settings(16_384));
            assert!(announced.is_done());
        }
    }
}
