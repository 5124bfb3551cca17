//! `GET /metrics` on the loopback port, when the configuration names one. HTTP/1.1 as far as a
//! scraper needs it (RFC 9112): one request a connection, its headers read and ignored.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Node;
use crate::telemetry::metrics::CONTENT_TYPE;

/// Scrapers at once.
const SCRAPERS: usize = 4;
/// Longest request: a scraper's has a few hundred bytes.
const MOST_REQUEST: usize = 8 << 10;
/// From the first byte of a request to the last of its answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Answers scrapers on `listener` until `draining` turns true.
pub(super) async fn serve(node: Node, listener: TcpListener, mut draining: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(SCRAPERS));
    loop {
        let tcp = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        let (Ok((tcp, _)), Ok(place)) = (tcp, Arc::clone(&places).try_acquire_owned()) else {
            // Out of descriptors, or more scrapers than anybody has: not worth a busy loop.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let node = node.clone();
        tokio::spawn(async move {
            // Who is too slow, or gone, scrapes again.
            let _ = timeout(DEADLINE, answer(&node, tcp)).await;
            drop(place);
        });
    }
}

async fn answer(node: &Node, mut tcp: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MOST_REQUEST || tcp.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let answer = match verdict(&request) {
        Ok(()) => {
            let supervisor = node.0.metrics.supervisor.borrow().clone();
            response("200 OK", &(node.metrics() + &supervisor))
        }
        Err(status) => response(status, ""),
    };
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await
}

/// Whether a request line (RFC 9112 §3) asks for the metrics, or the status that says why not.
fn verdict(request: &[u8]) -> Result<(), &'static str> {
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    match (method, target, version, words.next()) {
        (Some(b"GET"), Some(b"/metrics"), Some(b"HTTP/1.1" | b"HTTP/1.0"), None) => Ok(()),
        (Some(b"GET"), Some(_), Some(b"HTTP/1.1" | b"HTTP/1.0"), None) => Err("404 Not Found"),
        (Some(_), Some(_), Some(b"HTTP/1.1" | b"HTTP/1.0"), None) => Err("405 Method Not Allowed"),
        _ => Err("400 Bad Request"),
    }
}

fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_metrics_are_answered() {
        assert_eq!(verdict(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), Ok(()));
        assert_eq!(verdict(b"GET / HTTP/1.1\r\n\r\n"), Err("404 Not Found"));
        assert_eq!(
            verdict(b"POST /metrics HTTP/1.1\r\n\r\n"),
            Err("405 Method Not Allowed")
        );
        for request in [
            &b"\r\n\r\n"[..],
            b"GET /metrics\r\n\r\n",
            b"GET /metrics HTTP/1.1 x\r\n\r\n",
            b"\0\0\0\0\r\n\r\n",
        ] {
            assert_eq!(verdict(request), Err("400 Bad Request"));
        }
    }
}
