//! Any bytes, both ways: for an application that speaks neither gRPC nor HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;

use super::ByteStream;
use super::bounded::Counted;
use super::exchange::Outcome;
use super::moving::Moving;
use super::session::Direction;
use super::settings::Settings;

/// Bytes held in each direction.
const BUFFER: usize = 64 << 10;
/// What is joined says nothing of its own, so nobody can be asked whether he is there: when nothing goes
/// either way for so long, he is not.
const IDLE: Duration = Duration::from_secs(3600);

/// Joins the two until both have ended, or one of them takes nothing, or nothing moves, or it is old. It counts as
/// one call of `direction`.
///
/// # Errors
/// `far` is not there, one of them broke off, or it is over.
pub(crate) async fn join<F: ByteStream>(
    near: impl ByteStream,
    far: impl Future<Output = Result<F, String>>,
    settings: &Arc<Settings>,
    direction: Direction,
) -> Result<(), String> {
    let mut counted = Counted::new(settings, direction);
    let far = match far.await {
        Ok(far) => far,
        Err(error) => {
            counted.outcome = Outcome::Unreachable;
            return Err(error);
        }
    };
    let joined = both_ways(near, far, settings).await;
    counted.outcome = match &joined {
        Ok(()) => Outcome::Answered,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Outcome::Stalled,
        Err(_) => Outcome::Broken,
    };
    joined.map_err(|error| error.to_string())
}

async fn both_ways(
    near: impl ByteStream,
    far: impl ByteStream,
    settings: &Settings,
) -> io::Result<()> {
    let mut near = Moving::new(near, settings.stall());
    let mut far = Moving::new(far, settings.stall());
    let moved = near.moved();
    let idle = async {
        loop {
            tokio::time::sleep(IDLE).await;
            if !moved.take() {
                return;
            }
        }
    };
    tokio::select! {
        joined = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER) => joined.map(drop),
        () = idle => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was sent for an hour")),
        () = tokio::time::sleep(settings.oldest()) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it is older than limits.connection_age_ms",
        )),
    }
}
