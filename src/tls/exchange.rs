//! One handshake as a machine: bytes of the peer in, bytes for the peer out. It knows no socket
//! and no clock, so it can be moved to the lane and back: boxed, as a TLS state has over a kilobyte.

use rustls::pki_types::ServerName;
use rustls::server::{Accepted, Acceptor};
use rustls::{AlertDescription, ClientConfig, ClientConnection, Connection, Error, ServerConfig};
use std::sync::Arc;

/// What is to be sent, and where the handshake stands.
pub(super) struct Step<T> {
    /// Bytes for the peer, to be sent whatever the outcome: an alert stands here.
    pub(super) output: Vec<u8>,
    pub(super) outcome: Result<T, Error>,
}

/// The peer closed (RFC 8446 §6.1): rustls takes no byte any more.
const CLOSED: Error = Error::AlertReceived(AlertDescription::CloseNotify);

/// Feeds `input` to the part of a server that only reads the ClientHello. `None`: not whole yet.
pub(super) fn hear(acceptor: &mut Acceptor, mut input: &[u8]) -> Step<Option<Box<Accepted>>> {
    while !input.is_empty() {
        let read = match acceptor.read_tls(&mut input) {
            Ok(0) => Err(CLOSED),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::General(error.to_string())),
        };
        if let Err(error) = read {
            return Step {
                output: Vec::new(),
                outcome: Err(error),
            };
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                return Step {
                    output: Vec::new(),
                    outcome: Ok(Some(Box::new(accepted))),
                };
            }
            Err((error, mut alert)) => {
                let mut output = Vec::new();
                // Writing to memory cannot fail.
                drop(alert.write_all(&mut output));
                return Step {
                    output,
                    outcome: Err(error),
                };
            }
        }
    }
    Step {
        output: Vec::new(),
        outcome: Ok(None),
    }
}

/// Speaks first, to a server that is called `name`.
pub(super) fn greet(config: Arc<ClientConfig>, name: ServerName<'static>) -> Step<Box<Connection>> {
    match ClientConnection::new(config, name) {
        Ok(connection) => {
            let mut connection = Box::new(Connection::Client(connection));
            Step {
                output: drain(&mut connection),
                outcome: Ok(connection),
            }
        }
        Err(error) => Step {
            output: Vec::new(),
            outcome: Err(error),
        },
    }
}

/// Answers a ClientHello. Signs, unless it asks for another key share first.
pub(super) fn answer(accepted: Box<Accepted>, config: Arc<ServerConfig>) -> Step<Box<Connection>> {
    match accepted.into_connection(config) {
        Ok(connection) => {
            let mut connection = Box::new(Connection::Server(connection));
            let output = drain(&mut connection);
            Step {
                output,
                outcome: Ok(connection),
            }
        }
        Err((error, mut alert)) => {
            let mut output = Vec::new();
            drop(alert.write_all(&mut output));
            Step {
                output,
                outcome: Err(error),
            }
        }
    }
}

/// Takes the handshake as far as `input` carries. May verify, may sign.
pub(super) fn advance(mut connection: Box<Connection>, mut input: &[u8]) -> Step<Box<Connection>> {
    while !input.is_empty() {
        let processed = match connection.read_tls(&mut input) {
            Ok(0) if connection.is_handshaking() => Err(CLOSED),
            Ok(0) => break,
            Ok(_) => connection.process_new_packets(),
            Err(error) => Err(Error::General(error.to_string())),
        };
        if let Err(error) = processed {
            return Step {
                output: drain(&mut connection),
                outcome: Err(error),
            };
        }
    }
    Step {
        output: drain(&mut connection),
        outcome: Ok(connection),
    }
}

/// All that is waiting to be sent.
pub(super) fn drain(connection: &mut Connection) -> Vec<u8> {
    let mut output = Vec::with_capacity(2048);
    while connection.wants_write() {
        // Writing to memory cannot fail, and writes something as long as something is wanted.
        match connection.write_tls(&mut output) {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    output
}
