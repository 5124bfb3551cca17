//! Tokens that are slow or broken: what waits, and what must not.

use super::*;

/// Counts how often a task of this runtime gets to run.
fn heartbeat() -> Arc<AtomicUsize> {
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    beats
}

async fn node_that_signs_when_its_runtime_goes_on(authority: &TestAuthority) -> Arc<Node> {
    let token = TestToken {
        sessions: 1,
        waits_for: Some(heartbeat()),
        ..TestToken::default()
    };
    let options = Options {
        token,
        ..Options::default()
    };
    Arc::new(Node::start(authority, options).await)
}

#[tokio::test]
async fn a_slow_token_does_not_stop_the_runtime_that_serves() {
    let authority = TestAuthority::new();
    let node = node_that_signs_when_its_runtime_goes_on(&authority).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for provider in [provider(), forcing_a_retry()] {
        let mut both = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let config = plain_client(provider.clone(), Some(&leaf));
            let address = node.address();
            both.spawn(async move { connect(config, address).await.map(drop).is_ok() });
            let node = node.clone();
            both.spawn(async move { node.accept().await.is_ok() });
        }
        assert!(both.join_all().await.into_iter().all(|done| done));
    }
    assert_eq!(node.keeper.asked(), 16);
}

#[tokio::test]
async fn dialling_through_a_slow_token_does_not_stop_the_runtime_either() {
    let authority = TestAuthority::new();
    let node = node_that_signs_when_its_runtime_goes_on(&authority).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    node.lists(&listing(B, Some(address), Some(leaf.pin()), None));
    let config = Arc::new(plain_server(&leaf, Some(&authority)));
    let mut both = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let node = node.clone();
        both.spawn(async move { node.dial(B, address).await.is_ok() });
    }
    for _ in 0..8 {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(config.clone());
        both.spawn(async move { acceptor.accept(tcp).await.is_ok() });
    }
    assert!(both.join_all().await.into_iter().all(|done| done));
    assert_eq!(node.keeper.asked(), 8);
}

#[tokio::test]
async fn a_token_slower_than_the_deadline_costs_the_handshake_and_not_the_lane() {
    let token = TestToken {
        sessions: 1,
        delay: Duration::from_millis(300),
        ..TestToken::default()
    };
    let deadline = Some(Duration::from_millis(150));
    let authority = TestAuthority::new();
    let node = Node::start(
        &authority,
        Options {
            token,
            deadline,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    // The second one's turn never comes: it is given up while it waits, and costs no signature.
    let (first, second, ..) = tokio::join!(
        node.accept(),
        node.accept(),
        connect(config.clone(), node.address()),
        connect(config.clone(), node.address()),
    );
    for ours in [first, second] {
        assert!(matches!(ours, Err(HandshakeError::Deadline(_))), "{ours:?}");
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(node.keeper.asked(), 1);
    assert_eq!(node.handshakes.generation().policy().peers().len(), 1);
}

#[tokio::test]
async fn a_token_that_does_not_sign_is_blamed() {
    let token = TestToken {
        broken: true,
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Node::start(
        &authority,
        Options {
            token,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
    let ours = ours.unwrap_err();
    assert!(matches!(ours, HandshakeError::LocalSigning(_)), "{ours:?}");
    let cause = std::error::Error::source(&ours).unwrap().to_string();
    assert_eq!(cause, "the token failed to sign");
    assert!(theirs.is_err());
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let config = plain_server(&leaf, Some(&authority));
    let lists = |address| listing(B, Some(address), Some(leaf.pin()), None);
    let ours = dialled(&node, config, lists).await.unwrap_err();
    assert!(matches!(ours, HandshakeError::LocalSigning(_)), "{ours:?}");
}

#[tokio::test]
async fn a_policy_that_changes_during_a_handshake_decides_it() {
    let token = TestToken {
        delay: Duration::from_millis(150),
        ..TestToken::default()
    };
    let authority = TestAuthority::new();
    let node = Node::start(
        &authority,
        Options {
            token,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    let (ours, _, ()) = tokio::join!(node.accept(), connect(config, node.address()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.lists("");
    });
    let ours = ours.unwrap_err();
    assert!(
        matches!(ours, HandshakeError::Refused(Reason::Unlisted)),
        "{ours:?}"
    );
}
