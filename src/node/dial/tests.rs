use tokio::io::duplex;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::proxy::tests::taken_back::answers_late;

#[test]
fn waits_double_to_a_bound_and_are_spread_over_half_of_it() {
    let milliseconds = |failures, share| wait_after(failures, share).as_millis();
    let longest: Vec<_> = (0..8).map(|n| milliseconds(n, u8::MAX)).collect();
    assert_eq!(longest, [100, 200, 400, 800, 1600, 3000, 3000, 3000]);
    for failures in [0, 3, 7, 1000, u32::MAX] {
        let spread: Vec<_> = [0, 64, 128, u8::MAX]
            .map(|share| milliseconds(failures, share))
            .into();
        assert!(spread.is_sorted_by(|one, next| one < next), "{spread:?}");
        assert_eq!(spread[0], spread[3] / 2);
    }
}

#[test]
fn only_an_alert_says_that_a_peer_wants_no_bytes() {
    let failures = |inside, error: io::Error| {
        let tries = Tries {
            peer: "spiffe://test/a".parse().unwrap(),
            state: Arc::default(),
        };
        let trial = Trial {
            tries: tries.clone(),
            inside,
        };
        assert!(trial.is_over(&Poll::Ready(Err(error)), false));
        tries.state().failures
    };
    for inside in [Inside::Bytes, Inside::H2] {
        assert_eq!(failures(inside, tls::an_alert()), 1);
    }
    for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
        assert_eq!(failures(Inside::Bytes, kind.into()), 0);
        assert_eq!(failures(Inside::H2, kind.into()), 1);
    }
}

#[tokio::test]
async fn answers_that_come_late_end_no_channel_to_a_peer() {
    let (near, far) = duplex(1 << 20);
    tokio::spawn(answers_late(far));
    let mut near = Some(near);
    let connector = tower::service_fn(move |_: Uri| {
        let near = near.take().map(TokioIo::new);
        async { near.ok_or(io::Error::other("there is one connection")) }
    });
    let channel = endpoint(&Limits::default()).connect_with_connector_lazy(connector);
    let mut client = HealthClient::new(channel);
    for _ in 0..3000 {
        let begun = client.watch(HealthCheckRequest::default()).await;
        drop(begun.unwrap());
    }
}
