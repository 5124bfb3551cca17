//! Handshakes, incoming and outgoing: sockets and the deadline here, everything that computes or
//! signs in the lane.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{Accepted, Acceptor};
use rustls::{Connection as TlsState, ProtocolVersion};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::blame::HandshakeError;
use super::connection::{Connection, ConnectionFacts, Wrapping};
use super::exchange::{self, Step};
use super::generation::{Generation, GenerationError};
use super::inside::Inside;
use super::lane::Lane;
use super::provider::{group_name, suite_name};
use super::signing::{Presenting, SignatureRecord, SignaturesMade};
use super::verifier::{Chain, Dialled};
use super::wire::Wire;
use crate::admission::{Class, Entry, Step as Progress, Ticket, Turned};
use crate::keeper::ask::Asker;
use crate::policy::{Grant, PeerId};
use crate::role::TlsRole;

/// A plaintext record with the alert `no_application_protocol` (RFC 7301 §3.2, RFC 8446 §5.1, §6).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

/// Makes connections of sockets. Cheap to clone.
#[derive(Clone)]
pub struct Handshakes {
    lane: Arc<Lane>,
    generations: watch::Receiver<Arc<Generation>>,
    deadline: Duration,
    /// What is spoken with those who dial us beside HTTP/2.
    also: Option<Inside>,
    wrapping: Wrapping,
    signatures: Arc<SignaturesMade>,
}

impl Handshakes {
    /// Handshakes in `lane`, always under the newest of `generations`, each done within `deadline`
    /// (from the open socket to the stream) or not at all.
    ///
    /// # Errors
    /// [`GenerationError::Configuration`]: a bug, the same at every start.
    pub fn new(
        lane: Arc<Lane>,
        generations: watch::Receiver<Arc<Generation>>,
        deadline: Duration,
    ) -> Result<Self, GenerationError> {
        let wrapping = Wrapping::new().map_err(GenerationError::Configuration)?;
        Ok(Self {
            lane,
            generations,
            deadline,
            also: None,
            wrapping,
            signatures: Arc::default(),
        })
    }

    /// The same, which also speaks `also` with those who dial us.
    #[must_use]
    pub fn speaking(mut self, also: Option<Inside>) -> Self {
        self.also = also;
        self
    }

    /// Where handshakes compute and wait.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// What was signed for whom.
    pub fn signatures(&self) -> &SignaturesMade {
        &self.signatures
    }

    /// The generation that the next handshake will use.
    pub fn generation(&self) -> Arc<Generation> {
        self.generations.borrow().clone()
    }

    /// Shakes hands with somebody at `remote` who dialled us and was let in as `entry`.
    ///
    /// # Errors
    /// [`HandshakeError`]; the socket is closed.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        entry: &Entry,
    ) -> Result<Connection, HandshakeError> {
        let until = Instant::now() + self.deadline;
        tokio::select! {
            outcome = self.in_time(Box::pin(self.accepted(tcp, remote, entry, until))) => outcome,
            () = entry.displaced() => Err(HandshakeError::Turned(Turned::Displaced)),
        }
    }

    /// Shakes hands with `peer`, whom we have reached at `address` through `tcp`. In TLS 1.3 we are
    /// done before the server has judged our certificate (RFC 8446 §4.4.2): its refusal comes as
    /// an error of the first read.
    ///
    /// # Errors
    /// [`HandshakeError`]; the socket is closed.
    pub async fn dial(
        &self,
        peer: &PeerId,
        address: SocketAddr,
        tcp: TcpStream,
        inside: Inside,
    ) -> Result<Connection, HandshakeError> {
        let dialled = Dialled {
            peer: peer.clone(),
            address,
        };
        let ticket = Ticket {
            class: Class::Own,
            step: Progress::First,
            source: None,
            until: Instant::now() + self.deadline,
        };
        self.in_time(Box::pin(self.dialled(dialled, tcp, ticket, inside)))
            .await
    }

    /// Has the token behind `asker` make a signature that nobody waits for, in the lane, so that it is
    /// believed again if it signs.
    pub async fn prove(&self, asker: &Arc<Asker>) {
        let Some((key, role)) = self.generation().key_of(asker) else {
            return;
        };
        let ticket = Ticket {
            class: Class::Own,
            step: Progress::First,
            source: None,
            until: Instant::now() + self.deadline,
        };
        match self.lane.run(ticket, move || key.prove(role)).await {
            Ok(Ok(())) => tracing::info!("a token that had failed signs again"),
            Ok(Err(error)) => tracing::debug!(%error, "a token that had failed does not sign yet"),
            // Too much is going on: later.
            Err(_) => {}
        }
    }

    /// Boxed: the memory of a handshake goes when it is done, and is not moved about before.
    async fn in_time(
        &self,
        handshake: Pin<Box<impl Future<Output = Result<Connection, HandshakeError>>>>,
    ) -> Result<Connection, HandshakeError> {
        let late = Err(HandshakeError::Deadline(self.deadline));
        timeout(self.deadline, handshake).await.unwrap_or(late)
    }

    async fn accepted(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        entry: &Entry,
        until: Instant,
    ) -> Result<Connection, HandshakeError> {
        if self.generation().server().is_none() {
            return Err(HandshakeError::NoCredential(TlsRole::Server));
        }
        let mut wire = Wire::new(tcp);

        // A stranger gets no signature before it has said something that we could agree to.
        let mut acceptor = Box::<Acceptor>::default();
        let hello = loop {
            wire.receive().await?;
            let heard = exchange::hear(&mut acceptor, &wire.input);
            if let Some(hello) = wire.send(heard).await? {
                break hello;
            }
        };
        let Some((inside, alpn)) = Inside::agreed(hello.client_hello().alpn(), self.also) else {
            wire.linger(&NO_APPLICATION_PROTOCOL).await;
            return Err(HandshakeError::NotH2);
        };

        // Who waits has half of its time left for the handshake, and who leaves is in nobody's way.
        let heard = tokio::select! {
            biased;
            heard = entry.heard(until - self.deadline / 2) => heard,
            () = wire.closed() => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        heard.map_err(HandshakeError::Turned)?;
        let ticket = Ticket {
            class: entry.class(),
            step: Progress::First,
            source: Some(remote.ip()),
            until,
        };
        let record = SignatureRecord::new(ticket.class, &self.signatures);
        let agreed = (inside, alpn);
        let answered = self
            .answered(wire, hello, agreed, remote, ticket, &record)
            .await;
        // Not when it is given up halfway: the lane may be about to sign.
        if answered.is_ok() || record.signed_by().is_none() {
            entry.give_back();
        }
        answered
    }

    /// From the ClientHello on.
    async fn answered(
        &self,
        mut wire: Wire,
        hello: Box<Accepted>,
        (inside, alpn): (Inside, Option<&'static [u8]>),
        remote: SocketAddr,
        ticket: Ticket,
        record: &Arc<SignatureRecord>,
    ) -> Result<Connection, HandshakeError> {
        let generation = self.generation();
        let missing = HandshakeError::NoCredential(TlsRole::Server);
        let present = |own: &_| Presenting::new(own, record);
        let config = generation.accepting(present, inside).ok_or(missing)?;
        let answering = config.clone();
        // The lane sends the answer itself, which saves two changes of threads: until the peer has
        // heard it and spoken again there is nothing to do here.
        let sending = wire.sending();
        let answer = move || sending.send(exchange::answer(hello, answering));
        let step = self.lane.run_until(ticket, answer, wire.news()).await?;
        let state = wire.send(step).await?;
        let ticket = Ticket {
            step: Progress::Next,
            ..ticket
        };
        let state = self.finish(&mut wire, state, record, ticket).await?;
        let ends = (wire.tcp().local_addr()?, remote);
        let facts = self.facts(ends, &state, record, &generation, None)?;
        let facts = speaking(facts, inside, alpn, &state)?;
        let TlsState::Server(state) = *state else {
            return Err(HandshakeError::Bug("a server became a client"));
        };
        let tcp = wire.into_tcp()?;
        let stream = self.wrapping.server(tcp, config, state).await?;
        Ok(Connection { stream, facts })
    }

    async fn dialled(
        &self,
        dialled: Dialled,
        tcp: TcpStream,
        ticket: Ticket,
        inside: Inside,
    ) -> Result<Connection, HandshakeError> {
        let generation = self.generation();
        let record = SignatureRecord::new(ticket.class, &self.signatures);
        let missing = HandshakeError::NoCredential(TlsRole::Client);
        let present = |own: &_| Presenting::new(own, &record);
        let config = generation
            .dialling(dialled.clone(), present, inside)
            .ok_or(missing)?;
        let mut wire = Wire::new(tcp);

        // An address as the name: no server name is sent (RFC 6066 §3).
        let name = ServerName::IpAddress(dialled.address.ip().into());
        let (called, sending) = (name.clone(), wire.sending());
        let greet = move || sending.send(exchange::greet(config, called));
        let greeting = Ticket {
            step: Progress::Greeting,
            ..ticket
        };
        let step = self.lane.run_until(greeting, greet, wire.news()).await?;
        let outcome = Ok(step.outcome.map_err(HandshakeError::Configuration)?);
        let state = wire.send(Step { outcome, ..step }).await?;
        let state = self.finish(&mut wire, state, &record, ticket).await?;
        let ends = (wire.tcp().local_addr()?, dialled.address);
        let facts = self.facts(ends, &state, &record, &generation, Some(&dialled))?;
        let facts = speaking(facts, inside, inside.name(), &state)?;
        let TlsState::Client(state) = *state else {
            return Err(HandshakeError::Bug("a client became a server"));
        };
        let tcp = wire.into_tcp()?;
        let stream = self.wrapping.client(tcp, name, state).await?;
        Ok(Connection { stream, facts })
    }

    /// Flight by flight to the end. Whatever may sign runs in the lane: with a HelloRetryRequest
    /// (RFC 8446 §4.1.4) the signature comes later than usual, and a client signs in its last step.
    async fn finish(
        &self,
        wire: &mut Wire,
        mut state: Box<TlsState>,
        record: &SignatureRecord,
        mut ticket: Ticket,
    ) -> Result<Box<TlsState>, HandshakeError> {
        while state.is_handshaking() {
            wire.receive().await?;
            let input = std::mem::take(&mut wire.input);
            // Once our own signature is made (there is one in a handshake, RFC 8446 §4.4.3), what is
            // left never waits for a token. While nobody waits for the lane it is done here, which
            // saves two changes of threads; under load, and for strangers, who may send chains that
            // cost much to verify, it keeps out of the way of calls.
            let here = record.signed_by().is_some()
                && ticket.class != Class::Stranger
                && !self.lane.is_busy();
            let step = if !here {
                self.lane
                    .run(ticket, move || exchange::advance(state, &input))
                    .await
                    .inspect(|_| ticket.step = Progress::Next)?
            } else {
                exchange::advance(state, &input)
            };
            state = wire.send(step).await?;
        }
        Ok(state)
    }

    fn facts(
        &self,
        (local, remote): (SocketAddr, SocketAddr),
        state: &TlsState,
        record: &SignatureRecord,
        generation: &Arc<Generation>,
        dialled: Option<&Dialled>,
    ) -> Result<ConnectionFacts, HandshakeError> {
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => return Err(HandshakeError::Bug("not TLS 1.3")),
        };
        Ok(ConnectionFacts {
            peer: self.grant(state, generation, dialled)?,
            version,
            group: state
                .negotiated_key_exchange_group()
                .map_or("unknown", |group| group_name(group.name())),
            suite: state
                .negotiated_cipher_suite()
                .map_or("unknown", |suite| suite_name(suite.suite())),
            inside: Inside::H2,
            alpn: Inside::H2.text(),
            signed_by: record
                .signed_by()
                .cloned()
                .ok_or(HandshakeError::NotMutual)?,
            local,
            remote,
            at: SystemTime::now(),
        })
    }

    /// Decides once more, under the newest generation: it may have come during the handshake.
    fn grant(
        &self,
        state: &TlsState,
        generation: &Arc<Generation>,
        dialled: Option<&Dialled>,
    ) -> Result<Grant, HandshakeError> {
        let certificates = state.peer_certificates().unwrap_or_default();
        let Some((end_entity, intermediates)) = certificates.split_first() else {
            return Err(HandshakeError::NoCertificate);
        };
        let chain = Chain {
            end_entity,
            intermediates,
            dialled,
        };
        let newest = self.generation();
        if Arc::ptr_eq(&newest, generation) {
            newest
                .judge
                .decide(chain)
                .into_result()
                .map_err(HandshakeError::Refused)
        } else {
            Ok(newest.judge.judge(chain, UnixTime::now())?)
        }
    }
}

/// Sees to it that TLS agreed on the protocol that we did (RFC 7301 §3.2), and notes it.
fn speaking(
    mut facts: ConnectionFacts,
    inside: Inside,
    alpn: Option<&'static [u8]>,
    state: &TlsState,
) -> Result<ConnectionFacts, HandshakeError> {
    if state.alpn_protocol() != alpn {
        return Err(HandshakeError::NotH2);
    }
    facts.inside = inside;
    facts.alpn = alpn.map_or(Inside::Bytes, |_| inside).text();
    Ok(facts)
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshakes(within {:?}, {:?})", self.deadline, self.lane)
    }
}
