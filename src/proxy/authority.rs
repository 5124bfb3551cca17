//! The `:authority` of calls that come through a unix socket. gRPC's C core (Python, C++, Ruby) and Java
//! put the socket's path there, percent-encoded or as it is, which is not an authority (RFC 3986
//! §3.2), and h2 refuses such a call. So each byte of it that cannot stand in a host name becomes a
//! `-`, in place: the length stays, and with it the sizes in the header table (RFC 7541 §4.1).

/// Length-preserving mender of header blocks (RFC 7541 §6), fed piece by piece.
#[derive(Debug, Default)]
pub(super) struct Mender {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// At the beginning of a field or a table size update.
    #[default]
    Field,
    /// In an integer that goes on (RFC 7541 §5.1).
    Integer { of: Of, value: usize, shift: u32 },
    /// At the first byte of a string's length.
    Length { of: Text },
    /// In a string.
    String {
        of: Text,
        left: usize,
        /// Position in it.
        at: usize,
        huffman: bool,
        /// So far it is `:authority`.
        matches: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Of {
    /// A whole field, or a table size update: nothing follows.
    Nothing,
    /// The index of a literal field's name.
    Name,
    /// The length of a string.
    String(Text, bool),
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value { of_authority: bool },
}

const AUTHORITY: &[u8] = b":authority";
/// `:authority` in the static table (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

impl Mender {
    /// A new header block begins.
    pub(super) fn begin(&mut self) {
        self.state = State::Field;
    }

    /// Mends the next bytes of the block.
    pub(super) fn take(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.state = match std::mem::take(&mut self.state) {
                State::Field => match *byte {
                    0x80.. => integer(Of::Nothing, *byte, 7),
                    0x40.. => integer(Of::Name, *byte, 6),
                    0x20.. => integer(Of::Nothing, *byte, 5),
                    _ => integer(Of::Name, *byte, 4),
                },
                State::Integer { of, value, shift } => {
                    let part = usize::from(*byte & 0x7f);
                    let value = value.saturating_add(part.checked_shl(shift).unwrap_or(usize::MAX));
                    match *byte & 0x80 {
                        0 => known(of, value),
                        // Longer ones are h2's to refuse.
                        _ => State::Integer {
                            of,
                            value,
                            shift: (shift + 7).min(63),
                        },
                    }
                }
                State::Length { of } => integer(Of::String(of, *byte & 0x80 != 0), *byte, 7),
                State::String {
                    of,
                    left,
                    at,
                    huffman,
                    matches,
                } => {
                    if let Text::Value { of_authority: true } = of
                        && !huffman
                    {
                        mend(byte);
                    }
                    let matches = matches && AUTHORITY.get(at) == Some(byte);
                    match left - 1 {
                        0 => done(of, matches && at + 1 == AUTHORITY.len()),
                        left => State::String {
                            of,
                            left,
                            at: at + 1,
                            huffman,
                            matches,
                        },
                    }
                }
            };
        }
    }
}

/// The first byte of an integer with a prefix of so many bits.
fn integer(of: Of, byte: u8, bits: u32) -> State {
    let most = (1 << bits) - 1;
    let value = usize::from(byte) & most;
    match value == most {
        true => State::Integer {
            of,
            value,
            shift: 0,
        },
        false => known(of, value),
    }
}

fn known(of: Of, value: usize) -> State {
    match of {
        Of::Nothing => State::Field,
        Of::Name if value == 0 => State::Length { of: Text::Name },
        Of::Name => State::Length {
            of: Text::Value {
                of_authority: value == AUTHORITY_INDEX,
            },
        },
        Of::String(of, _) if value == 0 => done(of, false),
        Of::String(of, huffman) => State::String {
            of,
            left: value,
            at: 0,
            huffman,
            matches: !huffman,
        },
    }
}

fn done(of: Text, is_authority: bool) -> State {
    match of {
        Text::Name => State::Length {
            of: Text::Value {
                of_authority: is_authority,
            },
        },
        Text::Value { .. } => State::Field,
    }
}

/// The same for a whole authority.
pub(super) fn mended(authority: &[u8]) -> Vec<u8> {
    let mut mended = authority.to_vec();
    mended.iter_mut().for_each(mend);
    mended
}

fn mend(byte: &mut u8) {
    // What a host and a port are made of (RFC 3986 §3.2.2).
    if !byte.is_ascii_alphanumeric() && !b"-._~:[]@".contains(byte) {
        *byte = b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    fn in_pieces(block: &[u8], cut: usize) -> Vec<u8> {
        let mut block = block.to_vec();
        let mut mender = Mender::default();
        mender.begin();
        block.chunks_mut(cut).for_each(|piece| mender.take(piece));
        block
    }

    #[test]
    fn a_path_becomes_a_host_of_the_same_length_and_nothing_else_changes() {
        let path = b"tmp%2Fx_test.sock/y";
        let host = b"tmp-2Fx_test.sock-y";
        for name in [
            vec![0x41],
            [&[0x40][..], &string(AUTHORITY)].concat(),
            vec![0x01],
        ] {
            let around = |value: &[u8]| {
                [
                    // A table size update and indexed fields, one with a long index.
                    &[0x3f, 0xe1, 0x1f, 0x83, 0x86, 0xff, 0x80, 0x01][..],
                    &[0x40],
                    &string(b":path"),
                    &string(b"/a%2F/b"),
                    &name,
                    &string(value),
                    &[0x0f, 0x2f],
                    &[0x7f, 0x00],
                    &[b'%'; 127],
                    &[0x44],
                    &string(b"/%"),
                ]
                .concat()
            };
            for cut in [1, 3, 1000] {
                assert_eq!(in_pieces(&around(path), cut), around(host));
            }
        }
    }

    #[test]
    fn an_authority_stays_as_it_is() {
        for good in [&b"node-b.example:7443"[..], b"[::1]:1", b"user@host", b""] {
            let block = [&[0x41][..], &string(good)].concat();
            assert_eq!(in_pieces(&block, 2), block);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_block_makes_it_panic(bytes: Vec<u8>) {
            assert_eq!(in_pieces(&bytes, 5).len(), bytes.len());
        }
    }
}
