//! One direction of a call: what comes is passed on as far as the receiver's window allows, and only
//! then the sender's window grows again (RFC 9113 §5.2). What we hold is bounded by these windows.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::time::timeout;

use super::head::clean;
use super::{Look, Refusal};

/// Why a direction ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Whoever sends broke off.
    From(h2::Error),
    /// Whoever receives broke off; the reason, when it gave one.
    To(Option<Reason>),
    /// Whoever receives has taken nothing for too long.
    Stalled,
    /// What is sent must not be passed on.
    Refused(Refusal),
}

/// Passes on all of `from`, with its trailers.
pub(super) async fn pump(
    from: &mut RecvStream,
    to: &mut SendStream<Bytes>,
    stall: Duration,
    mut look: Option<Box<dyn Look>>,
) -> Result<(), Broken> {
    while let Some(data) = next(from, to).await? {
        let length = data.len();
        let last = from.is_end_stream();
        if let Some(look) = &mut look {
            look.data(&data).map_err(Broken::Refused)?;
            if last {
                look.end().map_err(Broken::Refused)?;
            }
        }
        send(to, data, last, stall).await?;
        from.flow_control()
            .release_capacity(length)
            .map_err(Broken::From)?;
        if last {
            return Ok(());
        }
    }
    if let Some(look) = &mut look {
        look.end().map_err(Broken::Refused)?;
    }
    let sent = match from.trailers().await.map_err(Broken::From)? {
        Some(mut trailers) => {
            clean(&mut trailers);
            to.send_trailers(trailers)
        }
        None => to.send_data(Bytes::new(), true),
    };
    sent.map_err(|error| Broken::To(error.reason()))
}

/// The next data, unless the receiver breaks off before.
async fn next(from: &mut RecvStream, to: &mut SendStream<Bytes>) -> Result<Option<Bytes>, Broken> {
    poll_fn(|context| {
        if let Poll::Ready(data) = from.poll_data(context) {
            return Poll::Ready(data.transpose().map_err(Broken::From));
        }
        to.poll_reset(context)
            .map(|reset| Err(Broken::To(reset.ok())))
    })
    .await
}

/// Sends `data` in as many pieces as the receiver's window makes of it.
pub(super) async fn send(
    to: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    stall: Duration,
) -> Result<(), Broken> {
    let failed = |error: h2::Error| Broken::To(error.reason());
    loop {
        to.reserve_capacity(data.len());
        let room = to.capacity();
        if room >= data.len() {
            return to.send_data(data, last).map_err(failed);
        }
        if room > 0 {
            to.send_data(data.split_to(room), false).map_err(failed)?;
            continue;
        }
        match timeout(stall, poll_fn(|context| to.poll_capacity(context))).await {
            Err(_) => return Err(Broken::Stalled),
            Ok(None) => return Err(Broken::To(None)),
            Ok(Some(Err(error))) => return Err(failed(error)),
            Ok(Some(Ok(_))) => {}
        }
    }
}
