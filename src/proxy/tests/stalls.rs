//! Callers and applications that take too little of what they are sent.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{SETTINGS, call, caller, drips, frame, proxied, status};
use crate::config::Limits;

#[tokio::test]
async fn who_takes_too_little_is_told_why_its_call_ends() {
    let limits = Limits {
        stall_ms: 50,
        ..Limits::default()
    };
    // The answer is not read, or a byte at a time.
    for drip in [false, true] {
        let proxied = proxied(&limits);
        drips(proxied.dialled, 100_000);
        let mut send = caller(proxied.caller, 1).await;
        let (answer, _) = send.send_request(call(), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        if drip {
            while let Some(Ok(data)) = body.data().await {
                tokio::time::sleep(Duration::from_millis(1)).await;
                body.flow_control().release_capacity(data.len()).unwrap();
            }
        } else {
            body.data().await.unwrap().unwrap();
            assert!(body.data().await.is_none());
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        let late = "the answer was not taken in time (limits.stall_ms)";
        assert_eq!(status(&trailers), ("4", late));
    }
    // The application does not read: the caller is not to blame, however often it happens.
    let mut proxied = proxied(&limits);
    let mut send = caller(proxied.caller, 65_535).await;
    tokio::spawn(async move {
        let mut application = proxied.dialled.recv().await.unwrap();
        application
            .write_all(&frame(SETTINGS, 0, b""))
            .await
            .unwrap();
        while application
            .read(&mut [0; 4096])
            .await
            .is_ok_and(|read| read > 0)
        {}
    });
    for _ in 0..20 {
        send = send.ready().await.unwrap();
        let (answer, mut body) = send.send_request(call(), false).unwrap();
        body.send_data(vec![0; 70_000].into(), false).unwrap();
        let answer = answer.await.unwrap();
        let late = "the other side does not take what was sent in time (limits.stall_ms)";
        assert_eq!(status(answer.headers()), ("4", late));
    }
}

#[tokio::test]
async fn calls_that_are_not_taken_end_and_those_beside_and_behind_them_do_not() {
    let limits = Limits {
        stall_ms: 50,
        ..Limits::default()
    };
    let mut proxied = proxied(&limits);
    tokio::spawn(async move {
        let stream = proxied.dialled.recv().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            let answer = match request.headers().contains_key("x-long") {
                true => &b"longer than the window"[..],
                false => b".",
            };
            body.send_data(Bytes::from_static(answer), false).unwrap();
            open.push(body);
        }
    });
    let mut send = caller(proxied.caller, 1).await;
    let (beside, _) = send.send_request(call(), true).unwrap();
    let mut beside = beside.await.unwrap().into_body();
    beside.data().await.unwrap().unwrap();
    // One less than end the connection.
    let calls: Vec<_> = (0..15)
        .map(|_| {
            let mut long = call();
            long.headers_mut().insert("x-long", "1".parse().unwrap());
            send.send_request(long, true).unwrap().0
        })
        .collect();
    for answer in calls {
        let mut body = answer.await.unwrap().into_body();
        body.data().await.unwrap().unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(status(&trailers).0, "4");
    }
    let (behind, _) = send.send_request(call(), true).unwrap();
    let mut behind = behind.await.unwrap().into_body();
    assert_eq!(&behind.data().await.unwrap().unwrap()[..], b".");
    assert!(beside.data().now_or_never().is_none(), "it goes on");
    assert!(!proxied.ended.is_finished());
}
