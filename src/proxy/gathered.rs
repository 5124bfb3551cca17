//! What peers have begun to say to services of our own. Such a service has a message whole before it looks
//! at it, and tonic makes room for all of it once it was announced: for all calls of a connection together no more than
//! its budget.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};

use super::budget::Budget;
use super::local::Received;

/// The body of a request, which fails beyond its connection's budget.
pub(super) struct Gathered {
    body: Received,
    message: Message,
    longest: usize,
    budget: Arc<Budget>,
}

impl Gathered {
    /// `longest`: bytes of a message that a service takes; nobody makes room for more.
    pub(super) fn new(body: RecvStream, longest: usize, budget: Arc<Budget>) -> Self {
        Self {
            body: Received(body),
            message: Message::default(),
            longest,
            budget,
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), h2::Error> {
        let before = self.message.charge(self.longest);
        self.message.take(data);
        let after = self.message.charge(self.longest);
        if after == before {
            return Ok(());
        }
        match self.budget.change(before, after) {
            true => Ok(()),
            false => Err(Reason::ENHANCE_YOUR_CALM.into()),
        }
    }
}

impl Body for Gathered {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(error) = self.take(data)
        {
            return Poll::Ready(Some(Err(error)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.budget.give_back(self.message.charge(self.longest));
    }
}

/// Bytes before a message: whether it is compressed, and its length (grpc/doc/PROTOCOL-HTTP2.md,
/// Length-Prefixed-Message).
const PREFIX: usize = 5;

/// Where in a message a body is.
#[derive(Debug, Default)]
struct Message {
    prefix: [u8; PREFIX],
    /// Bytes of it that have come, its prefix included.
    held: usize,
}

impl Message {
    /// How long it is, as far as is known.
    fn length(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        match self.held < PREFIX {
            true => PREFIX,
            false => PREFIX.saturating_add(u32::from_be_bytes(length) as usize),
        }
    }

    /// Bytes that it costs: none once it is whole.
    fn charge(&self, longest: usize) -> usize {
        match self.held < PREFIX {
            true => self.held,
            false => self.length().min(longest).max(self.held),
        }
    }

    fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (piece, rest) = data.split_at(data.len().min(self.length() - self.held));
            if self.held < PREFIX {
                self.prefix[self.held..][..piece.len()].copy_from_slice(piece);
            }
            self.held += piece.len();
            if self.held >= PREFIX && self.held == self.length() {
                self.held = 0;
            }
            data = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes next of `body`.
    async fn next(body: &mut Gathered) -> Option<Result<Bytes, h2::Error>> {
        let frame =
            std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        Some(frame.map(|frame| frame.into_data().expect("no trailers are sent")))
    }

    #[tokio::test]
    async fn calls_of_a_connection_share_its_budget_and_give_it_back() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) =
            tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut client, connection), mut server) = (client.unwrap(), server.unwrap());
        tokio::spawn(connection);
        // Sixty bytes of a message of a hundred.
        let begun = Bytes::from([&[0, 0, 0, 0, 100][..], &[0; 55]].concat());
        let mut sending = Vec::new();
        for _ in 0..4 {
            let request = http::Request::post("http://a/b.C/D").body(()).unwrap();
            let (_, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(begun.clone(), false).unwrap();
            sending.push(stream);
        }
        let budget = Arc::new(Budget::new(230));
        let mut bodies = Vec::new();
        while bodies.len() < 4 {
            let (request, respond) = server.accept().await.unwrap().unwrap();
            bodies.push((
                Gathered::new(request.into_body(), 1000, budget.clone()),
                respond,
            ));
        }
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        for (body, _) in &mut bodies[..2] {
            assert_eq!(next(body).await.unwrap().unwrap(), begun);
        }
        let refused = next(&mut bodies[2].0).await.unwrap().unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        drop(bodies.remove(2));
        // One is whole now.
        sending[0].send_data(vec![0; 45].into(), false).unwrap();
        next(&mut bodies[0].0).await.unwrap().unwrap();
        assert_eq!(next(&mut bodies[2].0).await.unwrap().unwrap(), begun);
        drop(bodies);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_message_is_held_until_it_is_whole_however_it_is_cut() {
        let messages = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[0; 5], &[1, 0, 0, 1, 0]].concat();
        for cut in 1..=messages.len() {
            let mut message = Message::default();
            messages.chunks(cut).for_each(|piece| message.take(piece));
            assert_eq!(message.held, PREFIX, "cut at each {cut}");
            message.take(&[0; 255]);
            assert_eq!(message.held, PREFIX + 255);
            message.take(&[7; 3]);
            assert_eq!(message.held, 2, "the next one has begun");
            assert_eq!(message.charge(1000), 2);
            message.take(&[0; 3]);
            assert_eq!(message.charge(1000), 1000, "it is far longer");
        }
    }
}
