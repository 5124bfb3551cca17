//! A peer's request as it comes: one uncompressed gRPC message (grpc/doc/PROTOCOL-HTTP2.md,
//! Length-Prefixed-Message), of which no more is kept than two short texts.

use super::wire::{Event, Field, Form, Scanner, Shape};
use super::{Malformed, Unread};

/// Flag and length before a gRPC message.
const PREFIX: usize = 5;
/// Longest address: `unix://` and the longest path of a socket, an IPv6 address with its zone and port.
const MOST_ADDRESS: usize = 128;
/// Longest command; P2PFL's have at most 18 bytes.
pub(crate) const MOST_COMMAND: usize = 64;

const fn once(number: u8, form: Form) -> Field {
    Field {
        number,
        form,
        repeated: false,
    }
}

const fn repeated(number: u8, form: Form) -> Field {
    Field {
        number,
        form,
        repeated: true,
    }
}

const GOSSIP: Shape = &[
    once(1, Form::Number),
    once(2, Form::Number),
    repeated(3, Form::Payload),
];
const DIRECT: Shape = &[repeated(3, Form::Payload)];
const WEIGHTS: Shape = &[
    once(1, Form::Payload),
    repeated(2, Form::Payload),
    once(3, Form::Number),
];
const ROOT: Shape = &[
    once(1, Form::Text(MOST_ADDRESS)),
    once(2, Form::Number),
    once(3, Form::Text(MOST_COMMAND)),
    once(4, Form::Message(GOSSIP)),
    once(5, Form::Message(DIRECT)),
    once(6, Form::Message(WEIGHTS)),
];
const HANDSHAKE: Shape = &[once(1, Form::Text(MOST_ADDRESS))];

/// The methods of `node.NodeServices`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The caller wants to be a direct neighbour.
    Handshake,
    /// The caller is none any more.
    Disconnect,
    /// Everything else.
    Send,
}

impl Method {
    /// The method with this path.
    pub fn at(path: &str) -> Option<Self> {
        match path.strip_prefix("/node.NodeServices/")? {
            "handshake" => Some(Self::Handshake),
            "disconnect" => Some(Self::Disconnect),
            "send" => Some(Self::Send),
            _ => None,
        }
    }

    /// Its name in P2PFL's words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Disconnect => "disconnect",
            Self::Send => "send",
        }
    }
}

/// How a `RootMessage` travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// From neighbour to neighbour: its source made it, whoever hands it on.
    Gossip,
    /// From its source.
    Direct,
    /// From its source, with a model.
    Weights,
}

/// What a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// `HandShakeRequest`
    Address(String),
    /// `RootMessage`
    Message {
        /// The address of whoever says it; empty when there is none.
        source: String,
        /// What is to be done; empty when it says nothing.
        command: String,
        /// How it travels.
        envelope: Envelope,
    },
}

/// Reads one request.
#[derive(Debug)]
pub struct Reader {
    method: Method,
    /// Longest message in bytes.
    most: u64,
    length: u64,
    state: State,
    source: String,
    command: String,
    seen: Option<Seen>,
    /// Whether it was said what this is.
    told: bool,
}

#[derive(Debug)]
enum State {
    Prefix {
        bytes: [u8; PREFIX],
        read: usize,
    },
    Message(Scanner),
    /// There was one, and there must be nothing else.
    Over,
}

impl Reader {
    /// A request to `method` of at most `most` bytes.
    pub fn new(method: Method, most: u64) -> Self {
        Self {
            method,
            most,
            length: 0,
            state: State::Prefix {
                bytes: [0; PREFIX],
                read: 0,
            },
            source: String::new(),
            command: String::new(),
            seen: None,
            told: false,
        }
    }

    /// The length of the message in bytes; 0 until that is known.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads on. Says once what the request is: before the payload of a message has come.
    ///
    /// # Errors
    /// It is not what P2PFL sends.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Seen>, Unread> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Prefix {
                    bytes: prefix,
                    read,
                } => {
                    let (part, rest) = bytes.split_at(bytes.len().min(PREFIX - *read));
                    prefix[*read..*read + part.len()].copy_from_slice(part);
                    *read += part.len();
                    bytes = rest;
                    if *read == PREFIX {
                        let prefix = *prefix;
                        self.begin(prefix)?;
                    }
                }
                State::Message(scanner) => {
                    let (source, command, seen) =
                        (&mut self.source, &mut self.command, &mut self.seen);
                    let method = self.method;
                    scanner.take(bytes, |event| match (method, event) {
                        (Method::Send, Event::Text { number: 1, value }) => *source = value,
                        (Method::Send, Event::Text { value, .. }) => *command = value,
                        (_, Event::Text { value, .. }) => *seen = Some(Seen::Address(value)),
                        (_, Event::Inside { number }) => {
                            *seen = Some(Seen::Message {
                                source: std::mem::take(source),
                                command: std::mem::take(command),
                                envelope: match number {
                                    4 => Envelope::Gossip,
                                    5 => Envelope::Direct,
                                    _ => Envelope::Weights,
                                },
                            });
                        }
                    })?;
                    bytes = &[];
                    if scanner.is_whole() {
                        self.finish()?;
                    }
                }
                State::Over => return Err(Unread::Several),
            }
        }
        let seen = self.seen.take();
        self.told |= seen.is_some();
        Ok(seen)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// The request is not whole.
    pub fn end(&self) -> Result<(), Unread> {
        match self.state {
            State::Over => Ok(()),
            _ => Err(Unread::Cut),
        }
    }
    /// The prefix of the message is there.
    fn begin(&mut self, prefix: [u8; PREFIX]) -> Result<(), Unread> {
        let [flag, length @ ..] = prefix;
        match flag {
            0 => {}
            1 => return Err(Unread::Compressed),
            _ => return Err(Unread::Flag),
        }
        self.length = u64::from(u32::from_be_bytes(length));
        if self.length > self.most {
            return Err(Unread::TooLong);
        }
        let shape = match self.method {
            Method::Handshake | Method::Disconnect => HANDSHAKE,
            Method::Send => ROOT,
        };
        self.state = State::Message(Scanner::new(shape, self.length));
        match self.length {
            0 => self.finish(),
            _ => Ok(()),
        }
    }

    /// The message is whole.
    fn finish(&mut self) -> Result<(), Unread> {
        self.state = State::Over;
        if self.told || self.seen.is_some() {
            return Ok(());
        }
        match self.method {
            Method::Send => Err(Malformed::NoPayload.into()),
            // A text that is empty need not be sent.
            _ => {
                self.seen = Some(Seen::Address(String::new()));
                Ok(())
            }
        }
    }
}
