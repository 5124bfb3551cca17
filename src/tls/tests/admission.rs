//! Strangers who ask for signatures, and peers who need them at the same time. All counts, no times
//! but lower bounds.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::*;
use crate::admission::Class;

/// 127.0.0.1 is a peer, everything else on loopback a stranger.
const LISTED: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A node behind a token with two sessions, and a client certificate that it accepts.
async fn node_and_leaf(
    delay: Duration,
    gate: GateLimits,
    deadline: Duration,
) -> (Arc<Node>, TestLeaf) {
    let token = TestToken {
        sessions: 2,
        delay,
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let options = Options {
        token,
        deadline: Some(deadline),
        gate: Some(gate),
    };
    let node = Arc::new(Node::start(&authority, options).await);
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    (node, leaf)
}

/// Accepts for ever; returns the outcome's code of each connection, with its address.
fn serve(node: &Arc<Node>) -> tokio::sync::mpsc::UnboundedReceiver<(IpAddr, &'static str)> {
    let (outcomes, heard) = tokio::sync::mpsc::unbounded_channel();
    let node = node.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, address) = node.listener.accept().await.unwrap();
            let (node, outcomes) = (node.clone(), outcomes.clone());
            tokio::spawn(async move {
                let outcome = node.accept_as(address.ip() == LISTED, tcp, address).await;
                let code = outcome
                    .as_ref()
                    .map_or_else(HandshakeError::code, |_| "established");
                let _ = outcomes.send((address.ip(), code));
            });
        }
    });
    heard
}

async fn tcp_from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(to).await
}

async fn connect_from(
    source: Ipv4Addr,
    config: ClientConfig,
    to: SocketAddr,
) -> std::io::Result<ClientStream> {
    let tcp = tcp_from(source, to).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::IpAddress(to.ip().into()), tcp)
        .await
}

#[tokio::test]
async fn peers_are_served_while_strangers_flood_a_slow_token() {
    let gate = GateLimits {
        pending: 400,
        source_pending: 400,
        source_signatures: 1000,
        stranger_signatures: 1000,
        lane_threads: 2,
    };
    let (node, leaf) = node_and_leaf(Duration::from_millis(10), gate, LONG).await;
    let _outcomes = serve(&node);
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..250 {
        let (config, to) = (plain_client(provider(), None), node.address());
        flood.spawn(connect_from(Ipv4Addr::new(127, 0, 0, 2), config, to));
    }
    while node.handshakes.lane().waiting(Class::Stranger) < 150 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..20 {
        let before = node.handshakes.signatures().count(Class::Stranger);
        connect_from(
            LISTED,
            plain_client(provider(), Some(&leaf)),
            node.address(),
        )
        .await
        .unwrap();
        // One session is the strangers' at best: a peer waits for none of those before it.
        let meanwhile = node.handshakes.signatures().count(Class::Stranger) - before;
        assert!(
            meanwhile < 20,
            "{meanwhile} strangers were served before a peer"
        );
        assert!(node.handshakes.lane().running(Class::Stranger) <= 1);
    }
    assert!(
        node.handshakes.lane().waiting(Class::Stranger) > 20,
        "the flood was over too soon to tell"
    );
    assert_eq!(node.handshakes.signatures().count(Class::Listed), 20);
}

#[tokio::test]
async fn strangers_have_their_rate_and_peers_have_none() {
    let gate = GateLimits {
        pending: 400,
        source_pending: 400,
        source_signatures: 1000,
        stranger_signatures: 10,
        lane_threads: 2,
    };
    let (node, leaf) = node_and_leaf(Duration::ZERO, gate, LONG).await;
    let mut outcomes = serve(&node);
    let began = Instant::now();
    for _ in 0..60 {
        let config = plain_client(provider(), None);
        let _ = connect_from(Ipv4Addr::new(127, 0, 0, 2), config, node.address()).await;
    }
    let mut rated = 0;
    for _ in 0..60 {
        rated += u64::from(outcomes.recv().await.unwrap().1 == "stranger-rate");
    }
    let spent = node.handshakes.signatures().count(Class::Stranger);
    assert_eq!(rated + spent, 60);
    let earned = 10.0 + 10.0 * began.elapsed().as_secs_f64();
    assert!(
        spent >= 10 && spent as f64 <= earned + 1.0,
        "{spent} of {earned}"
    );
    assert_eq!(node.keeper.asked(), usize::try_from(spent).unwrap());
    for _ in 0..60 {
        connect_from(
            LISTED,
            plain_client(provider(), Some(&leaf)),
            node.address(),
        )
        .await
        .unwrap();
    }
    assert_eq!(node.handshakes.signatures().count(Class::Listed), 60);
}

#[tokio::test]
async fn strangers_at_a_peer_s_address_have_a_rate_too_and_the_peer_has_its_turn_among_them() {
    const RATE: u32 = 10;
    let gate = GateLimits {
        pending: 400,
        source_pending: 400,
        source_signatures: 1000,
        stranger_signatures: RATE,
        lane_threads: 2,
    };
    let (node, leaf) = node_and_leaf(Duration::ZERO, gate, LONG).await;
    let mut outcomes = serve(&node);
    let began = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (node, config) = (node.clone(), plain_client(provider(), None));
        flood.spawn(async move {
            loop {
                let _ = connect_from(LISTED, config.clone(), node.address()).await;
            }
        });
    }
    for _ in 0..10 {
        let config = plain_client(provider(), Some(&leaf));
        connect_from(LISTED, config, node.address()).await.unwrap();
    }
    let mut established = 0;
    while established < 10 {
        match outcomes.recv().await.unwrap().1 {
            "established" => established += 1,
            code => assert!(["no-certificate", "io"].contains(&code), "{code}"),
        }
    }
    let spent = node.handshakes.signatures().count(Class::Listed) - established;
    let most = f64::from(2 + RATE) + f64::from(RATE) * began.elapsed().as_secs_f64();
    assert!(spent as f64 <= most + 1.0, "{spent} of {most}");
    assert!(spent > 12, "the flood was over too soon to tell");
}

#[tokio::test]
async fn one_stranger_s_address_has_its_own_bounds() {
    let gate = GateLimits {
        pending: 400,
        source_pending: 3,
        source_signatures: 2,
        stranger_signatures: 1000,
        lane_threads: 2,
    };
    let (node, _) = node_and_leaf(Duration::ZERO, gate, LONG).await;
    let mut outcomes = serve(&node);
    let one = Ipv4Addr::new(127, 0, 0, 2);
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(tcp_from(one, node.address()).await.unwrap());
    }
    for _ in 0..2 {
        assert_eq!(outcomes.recv().await.unwrap().1, "source-busy");
    }
    // Another address is not concerned.
    let other = Ipv4Addr::new(127, 0, 0, 3);
    let began = Instant::now();
    let mut spent = 0;
    for _ in 0..40 {
        let _ = connect_from(other, plain_client(provider(), None), node.address()).await;
        let (from, code) = outcomes.recv().await.unwrap();
        assert_eq!(from, other);
        match code {
            "no-certificate" => spent += 1,
            code => assert_eq!(code, "source-rate"),
        }
    }
    let earned = 2.0 + 2.0 * began.elapsed().as_secs_f64();
    assert!(
        spent >= 2 && f64::from(spent) <= earned + 1.0,
        "{spent} of {earned}"
    );
}

#[tokio::test]
async fn half_open_strangers_give_way_to_peers() {
    let gate = GateLimits {
        pending: 16,
        source_pending: 4,
        source_signatures: 100,
        stranger_signatures: 100,
        lane_threads: 2,
    };
    let (node, leaf) = node_and_leaf(Duration::ZERO, gate, LONG).await;
    let mut outcomes = serve(&node);
    let mut silent = Vec::new();
    for stranger in 0..300_u16 {
        let [high, low] = stranger.to_be_bytes();
        silent.push(
            tcp_from(Ipv4Addr::new(127, 1, high, low.max(1)), node.address())
                .await
                .unwrap(),
        );
        if stranger % 10 == 0 {
            connect_from(
                LISTED,
                plain_client(provider(), Some(&leaf)),
                node.address(),
            )
            .await
            .unwrap();
        }
    }
    let mut codes = Vec::new();
    while codes.iter().filter(|code| **code == "established").count() < 30 {
        codes.push(outcomes.recv().await.unwrap().1);
    }
    let kinds: HashSet<_> = codes.into_iter().collect();
    assert_eq!(kinds, HashSet::from(["established", "displaced"]));
    assert!(node.gate.sizes().strangers <= 12);
    assert_eq!(
        node.keeper.asked(),
        30,
        "who says nothing costs no signature"
    );
}

#[tokio::test]
async fn a_handshake_whose_turn_would_come_too_late_is_refused_and_costs_no_signature() {
    let (delay, deadline) = (Duration::from_millis(400), Duration::from_secs(2));
    let (node, leaf) = node_and_leaf(delay, GATE, deadline).await;
    let mut outcomes = serve(&node);
    // The lane learns how slow the token is.
    connect_from(
        LISTED,
        plain_client(provider(), Some(&leaf)),
        node.address(),
    )
    .await
    .unwrap();
    assert_eq!(outcomes.recv().await.unwrap().1, "established");
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (config, to) = (plain_client(provider(), Some(&leaf)), node.address());
        all.spawn(connect_from(LISTED, config, to));
    }
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(outcomes.recv().await.unwrap().1);
    }
    let of = |code| codes.iter().filter(|found| **found == code).count();
    assert!(of("token-too-slow") >= 30, "{codes:?}");
    assert!(
        node.keeper.asked() <= 20,
        "{} signatures in two seconds of 2 × 400 ms",
        node.keeper.asked()
    );
    // A handshake that was begun goes before those that were not, or none would ever be done.
    assert!(of("established") >= 4, "{codes:?}");
    while node.handshakes.lane().running(Class::Listed) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        node.keeper.asked() as u64,
        node.handshakes.signatures().count(Class::Listed)
    );
}

#[tokio::test]
async fn own_dials_have_their_turn_while_strangers_flood() {
    let gate = GateLimits {
        pending: 400,
        source_pending: 400,
        source_signatures: 1000,
        stranger_signatures: 1000,
        lane_threads: 2,
    };
    let (node, _) = node_and_leaf(Duration::from_millis(10), gate, LONG).await;
    let authority = TestAuthority::new();
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let _outcomes = serve(&node);
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let (config, to) = (plain_client(provider(), None), node.address());
        flood.spawn(connect_from(Ipv4Addr::new(127, 0, 0, 2), config, to));
    }
    while node.handshakes.lane().waiting(Class::Stranger) < 80 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let before = node.handshakes.signatures().count(Class::Stranger);
    // Its certificate is another authority's: what counts is that the dial had its turn.
    let lists = |address| listing(B, Some(address), Some(leaf.pin()), None);
    let refused = dialled(&node, plain_server(&leaf, None), lists)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "not-trusted");
    let meanwhile = node.handshakes.signatures().count(Class::Stranger) - before;
    assert!(
        meanwhile < 20,
        "{meanwhile} strangers were served before a dial"
    );
    // Once to speak, once to hear and sign.
    assert_eq!(node.handshakes.lane().waits(Class::Own).count(), 2);
}
