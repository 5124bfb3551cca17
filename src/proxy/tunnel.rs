//! Any bytes, both ways: for an application that speaks neither gRPC nor HTTP.

use std::io;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;

use super::ByteStream;

/// Bytes held in each direction.
const BUFFER: usize = 64 << 10;

/// Joins the two until both have ended, for at most `age`.
///
/// # Errors
/// One of them broke off, or it is over.
pub(crate) async fn join(
    mut near: impl ByteStream,
    mut far: impl ByteStream,
    age: Duration,
) -> io::Result<()> {
    let joined = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER);
    match tokio::time::timeout(age, joined).await {
        Ok(joined) => joined.map(drop),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
