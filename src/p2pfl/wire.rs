//! Protocol Buffers as they come, piece by piece (protobuf.dev, Encoding). Stricter than the encoding
//! allows, so that there is one reading of a message and the application's is the same: known fields
//! alone, in the order of their numbers, none twice, numbers and lengths in their shortest form.

use super::Malformed;

/// The fields of a message, in the order of their numbers.
pub(super) type Shape = &'static [Field];

/// A field: its number is below 16, so that its tag is one byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u8,
    pub(super) form: Form,
    /// May come several times in a row.
    pub(super) repeated: bool,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// A number that does not concern us.
    Number,
    /// Text that is wanted, of at most so many bytes.
    Text(usize),
    /// Bytes that are passed by.
    Payload,
    /// A message that goes to the end of the one around it.
    Message(Shape),
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A text field.
    Text { number: u8, value: String },
    /// A message begins in this field.
    Inside { number: u8 },
}

/// Longest number (protobuf.dev, Base 128 Varints), and longest length (2 GiB).
const LONGEST_NUMBER: u32 = 10;
const LONGEST_LENGTH: u32 = 5;

/// One message that is being read.
#[derive(Debug)]
pub(super) struct Scanner {
    /// Fields that may come, of the innermost message that we are in.
    shape: Shape,
    /// The number of the last field in it.
    last: u8,
    /// Bytes to its end, which is that of the outer one too.
    left: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Tag,
    Number {
        read: u32,
    },
    Length {
        field: Field,
        value: u64,
        read: u32,
    },
    Text {
        number: u8,
        left: u64,
        text: Vec<u8>,
    },
    Payload {
        left: u64,
    },
}

impl Scanner {
    /// A message of this shape and of so many bytes.
    pub(super) fn new(shape: Shape, length: u64) -> Self {
        Self {
            shape,
            last: 0,
            left: length,
            state: State::Tag,
        }
    }

    /// Whether the message has come to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.left == 0 && matches!(self.state, State::Tag)
    }

    /// Reads on; `seen` is told what is in it.
    pub(super) fn take(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(Event),
    ) -> Result<(), Malformed> {
        while let Some(first) = bytes.first().copied() {
            let taken = match &mut self.state {
                State::Text { left, .. } | State::Payload { left } => {
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()))
                }
                _ => 1,
            };
            let (part, rest) = bytes.split_at(taken);
            bytes = rest;
            // `usize` is at most 64 bits wide.
            self.left = self
                .left
                .checked_sub(taken as u64)
                .ok_or(Malformed::Overlong)?;
            self.state = match std::mem::replace(&mut self.state, State::Tag) {
                State::Tag => self.tag(first)?,
                State::Number { read } => number(first, read)?,
                State::Length { field, value, read } => {
                    let value = value | u64::from(first & 0x7f) << (7 * read);
                    match shortest(first, read, LONGEST_LENGTH)? {
                        true => self.begin(field, value, &mut seen)?,
                        false => State::Length {
                            field,
                            value,
                            read: read + 1,
                        },
                    }
                }
                State::Text {
                    number,
                    left,
                    mut text,
                } => {
                    text.extend_from_slice(part);
                    match left - taken as u64 {
                        0 => said(number, text, &mut seen)?,
                        left => State::Text { number, left, text },
                    }
                }
                State::Payload { left } => match left - taken as u64 {
                    0 => State::Tag,
                    left => State::Payload { left },
                },
            };
        }
        Ok(())
    }

    fn tag(&mut self, tag: u8) -> Result<State, Malformed> {
        let (number, wire) = (tag >> 3, tag & 0x07);
        let field = self.shape.iter().find(|field| field.number == number);
        let field = *field.ok_or(Malformed::UnknownField)?;
        if number < self.last || (number == self.last && !field.repeated) {
            return Err(Malformed::Order);
        }
        self.last = number;
        match (field.form, wire) {
            (Form::Number, 0) => Ok(State::Number { read: 0 }),
            (Form::Text(_) | Form::Payload | Form::Message(_), 2) => Ok(State::Length {
                field,
                value: 0,
                read: 0,
            }),
            _ => Err(Malformed::UnknownField),
        }
    }

    /// A field of so many bytes begins.
    fn begin(
        &mut self,
        field: Field,
        length: u64,
        seen: &mut impl FnMut(Event),
    ) -> Result<State, Malformed> {
        if length > self.left {
            return Err(Malformed::Overlong);
        }
        let number = field.number;
        Ok(match field.form {
            Form::Text(most) if length > most as u64 => return Err(Malformed::LongText),
            Form::Text(_) if length == 0 => said(number, Vec::new(), seen)?,
            Form::Text(_) => State::Text {
                number,
                left: length,
                text: Vec::new(),
            },
            Form::Message(_) if length < self.left => return Err(Malformed::Order),
            Form::Message(shape) => {
                (self.shape, self.last) = (shape, 0);
                seen(Event::Inside { number });
                State::Tag
            }
            Form::Payload if length > 0 => State::Payload { left: length },
            Form::Payload | Form::Number => State::Tag,
        })
    }
}

fn said(number: u8, text: Vec<u8>, seen: &mut impl FnMut(Event)) -> Result<State, Malformed> {
    let value = String::from_utf8(text).map_err(Malformed::NotText)?;
    seen(Event::Text { number, value });
    Ok(State::Tag)
}

fn number(byte: u8, read: u32) -> Result<State, Malformed> {
    Ok(match shortest(byte, read, LONGEST_NUMBER)? {
        true => State::Tag,
        false => State::Number { read: read + 1 },
    })
}

/// Whether the byte at position `read` of a varint is its last; an error when it is longer than `most`
/// or than it must be.
fn shortest(byte: u8, read: u32, most: u32) -> Result<bool, Malformed> {
    let last = byte & 0x80 == 0;
    let padding = last && byte == 0 && read > 0;
    match padding || read + u32::from(!last) >= most {
        true => Err(Malformed::Number),
        false => Ok(last),
    }
}
