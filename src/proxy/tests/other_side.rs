//! Other sides that take no call.

use tokio::io::AsyncWriteExt;

use super::{Other, SETTINGS, call, caller, frame, pool_to, proxied, status};
use crate::config::Limits;

#[tokio::test]
async fn a_call_does_not_wait_for_a_slow_peer_whose_dial_goes_on() {
    let limits = Limits {
        connect_ms: 50,
        ..Limits::default()
    };
    let (pool, mut dialled) = pool_to(Other::Peer, &limits);
    for _ in 0..3 {
        let refusal = pool.ready().await.err().unwrap();
        assert_eq!(
            refusal.message,
            "no connection yet, after limits.connect_ms: waiting for the other side"
        );
    }
    let mut other = dialled.recv().await.unwrap();
    other.write_all(&frame(SETTINGS, 0, b"")).await.unwrap();
    while pool.ready().await.is_err() {}
    assert!(dialled.try_recv().is_err(), "one dial for all");
}

#[tokio::test]
async fn a_call_that_cannot_begin_ends_with_the_reason_and_is_in_nobodys_way() {
    let limits = Limits {
        connect_ms: 50,
        ..Limits::default()
    };
    let mut proxied = proxied(&limits);
    let mut send = caller(proxied.caller, 65_535).await;
    let (first, _) = send.send_request(call(), true).unwrap();
    let stream = proxied.dialled.recv().await.unwrap();
    let mut one_at_a_time = h2::server::Builder::new();
    one_at_a_time.max_concurrent_streams(1);
    let mut connection = one_at_a_time
        .handshake::<_, bytes::Bytes>(stream)
        .await
        .unwrap();
    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
        }
    });
    for _ in 0..3 {
        let (refused, _) = send.send_request(call(), false).unwrap();
        let refused = refused.await.unwrap();
        let (code, message) = status(refused.headers());
        assert_eq!(code, "14");
        assert!(message.contains("takes no more calls at once"), "{message}");
    }
    respond
        .send_response(http::Response::new(()), true)
        .unwrap();
    first.await.unwrap();
    for _ in 0..3 {
        let (next, _) = send.send_request(call(), true).unwrap();
        assert!(next.await.unwrap().headers().is_empty());
    }
}
