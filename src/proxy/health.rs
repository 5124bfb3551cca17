//! Whether the application is well, by its own word (`grpc.health.v1`).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, Uri};
use prost::Message;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Pool;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bad answers in a row before it counts as unwell: one slow answer is none.
const BAD: u32 = 2;
/// Longest answer in bytes; a good one has seven.
const MOST: usize = 1024;

/// Asks the application behind `pool` about its `service` for as long as somebody listens to `well`.
pub(crate) async fn watch(pool: &Arc<Pool>, service: &str, well: watch::Sender<bool>) {
    let (mut bad, mut said) = (0, None);
    while !well.is_closed() {
        let answer = timeout(PATIENCE, ask(pool, service)).await;
        bad = match answer {
            Ok(Some(ServingStatus::Serving)) => 0,
            _ => bad + 1,
        };
        let verdict = match bad {
            0 => Some(true),
            BAD.. => Some(false),
            _ => said,
        };
        if verdict != said {
            said = verdict;
            match verdict == Some(true) {
                true => tracing::info!(service, "the application is well"),
                false => tracing::warn!(
                    service,
                    answer = ?answer.ok().flatten(),
                    "the application does not say that it is well"
                ),
            }
            well.send_replace(verdict == Some(true));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(pool: &Arc<Pool>, service: &str) -> Option<ServingStatus> {
    let mut upstream = pool.ready().await.ok()?.send;
    let request = Request::builder()
        .method(Method::POST)
        .uri(Uri::from_static(
            "http://localhost/grpc.health.v1.Health/Check",
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .ok()?;
    let (response, mut body) = upstream.send_request(request, false).ok()?;
    let service = service.to_owned();
    body.send_data(framed(&HealthCheckRequest { service }), true)
        .ok()?;
    let mut answer = response.await.ok()?.into_body();
    let mut received = BytesMut::new();
    while let Some(data) = answer.data().await {
        let data = data.ok()?;
        if received.len() + data.len() > MOST {
            return None;
        }
        answer.flow_control().release_capacity(data.len()).ok()?;
        received.extend_from_slice(&data);
    }
    let trailers = answer.trailers().await.ok()??;
    if trailers.get("grpc-status")?.as_bytes() != b"0" {
        return None;
    }
    // Not compressed, and its length (grpc/doc/PROTOCOL-HTTP2.md, Length-Prefixed-Message).
    let message = received.get(5..)?;
    Some(HealthCheckResponse::decode(message).ok()?.status())
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message.encode_to_vec());
    frame.freeze()
}
