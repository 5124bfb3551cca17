//! HTTP CONNECT (RFC 9110 §9.3.6), as `grpc_proxy` of gRPC's libraries speaks it: the application says
//! which address it wants, and gets the listed peer that lives there or nothing.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::ByteStream;

/// Longest request: gRPC's has about 200 bytes.
const MOST_REQUEST: usize = 8 << 10;
/// From the first byte to the last of a request.
const DEADLINE: Duration = Duration::from_secs(5);

/// An application that asked for an address.
pub(crate) struct Asked<S> {
    /// `host:port` as it was written.
    pub(crate) authority: String,
    stream: BufReader<S>,
}

impl<S: ByteStream> Asked<S> {
    /// Tells the application to go on.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) async fn established(mut self) -> io::Result<BufReader<S>> {
        self.stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
        Ok(self.stream)
    }

    /// Tells the application that it gets nothing.
    pub(crate) async fn refuse(mut self, why: &str) {
        let _ = answer(&mut self.stream, "403 Forbidden", why).await;
    }
}

/// Reads what the application asks for; `None` when it was not a CONNECT, and was told so.
///
/// # Errors
/// It is gone, too slow, or asks for too much.
pub(crate) async fn asked<S: ByteStream>(stream: S) -> io::Result<Option<Asked<S>>> {
    let mut stream = BufReader::new(stream);
    let request = timeout(DEADLINE, read(&mut stream))
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
    match authority(&request) {
        Ok(authority) => Ok(Some(Asked { authority, stream })),
        Err(status) => {
            let why = "this is an HTTP CONNECT proxy for the application's gRPC";
            answer(&mut stream, status, why).await?;
            Ok(None)
        }
    }
}

/// The request line and its headers.
async fn read<S: ByteStream>(stream: &mut BufReader<S>) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let buffered = stream.fill_buf().await?;
        if buffered.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = buffered.iter().position(|byte| *byte == b'\n');
        let taken = line.map_or(buffered.len(), |end| end + 1);
        request.extend_from_slice(&buffered[..taken]);
        stream.consume(taken);
        if request.ends_with(b"\r\n\r\n") || request.ends_with(b"\n\n") {
            return Ok(request);
        }
        if request.len() > MOST_REQUEST || request.starts_with(b"PRI * HTTP/2.0") {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// What a request asks for, or the status that says why not.
fn authority(request: &[u8]) -> Result<String, &'static str> {
    let line = request.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    let Ok(line) = std::str::from_utf8(line.unwrap_or_default()) else {
        return Err("400 Bad Request");
    };
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["CONNECT", authority, "HTTP/1.1" | "HTTP/1.0"] => Ok((*authority).to_owned()),
        [_, _, "HTTP/1.1" | "HTTP/1.0"] => Err("405 Method Not Allowed"),
        _ => Err("400 Bad Request"),
    }
}

async fn answer<S: ByteStream>(
    stream: &mut BufReader<S>,
    status: &str,
    why: &str,
) -> io::Result<()> {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{why}\n",
        why.len() + 1
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_is_answered() {
        assert_eq!(
            authority(b"CONNECT 10.0.0.2:6666 HTTP/1.1\r\nHost: x\r\n\r\n").as_deref(),
            Ok("10.0.0.2:6666")
        );
        assert_eq!(
            authority(b"GET http://x/ HTTP/1.1\r\n\r\n"),
            Err("405 Method Not Allowed")
        );
        for request in [
            &b"\r\n\r\n"[..],
            b"CONNECT\r\n\r\n",
            b"CONNECT a:1\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1 x\r\n\r\n",
            b"\xff\xff\r\n\r\n",
        ] {
            assert_eq!(authority(request), Err("400 Bad Request"), "{request:?}");
        }
    }

    #[tokio::test]
    async fn what_comes_after_the_request_is_kept() {
        let (mut near, far) = tokio::io::duplex(4096);
        near.write_all(b"CONNECT b:1 HTTP/1.1\r\nHost: b\r\n\r\nPRI *")
            .await
            .unwrap();
        let asked = asked(far).await.unwrap().unwrap();
        assert_eq!(asked.authority, "b:1");
        let mut stream = asked.established().await.unwrap();
        assert_eq!(stream.fill_buf().await.unwrap(), b"PRI *");
    }
}
