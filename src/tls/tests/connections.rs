//! Handshakes that end in a connection, and credentials that may begin one.

use super::*;

#[tokio::test]
async fn two_nodes_with_token_keys_shake_hands_both_ways() {
    let authority = TestAuthority::new();
    let (a, b) = tokio::join!(
        Node::start(&authority, Options::default()),
        Node::start(&authority, Options::default())
    );
    // Both call themselves A here; each lists the other's keys.
    let [server, client] = b.pins();
    a.lists(&listing(A, Some(b.address()), Some(server), Some(client)));
    let [server, client] = a.pins();
    b.lists(&listing(A, Some(a.address()), Some(server), Some(client)));

    for (from, to) in [(&a, &b), (&b, &a)] {
        let (dialled, accepted) = tokio::join!(from.dial(A, to.address()), to.accept());
        let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
        for (facts, role) in [
            (&dialled.facts, TlsRole::Server),
            (&accepted.facts, TlsRole::Client),
        ] {
            assert_eq!((facts.peer.id().as_str(), facts.peer.role()), (A, role));
            assert_eq!(facts.peer.label(), PinLabel::Active);
            let settled = (facts.version, facts.group, facts.suite, facts.alpn);
            let expected = ("TLSv1.3", "X25519MLKEM768", "TLS_AES_128_GCM_SHA256", "h2");
            assert_eq!(settled, expected);
            assert_eq!(facts.signed_by.keeper, TEST_KEEPER);
        }
        assert_eq!(dialled.facts.local, accepted.facts.remote);
        assert_eq!(dialled.facts.peer.dialled(), Some(to.address()));
        dialled.stream.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        accepted.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
        accepted.stream.write_all(b"pong").await.unwrap();
        accepted.stream.shutdown().await.unwrap();
        dialled.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"pong");
        assert_eq!(dialled.stream.read(&mut heard).await.unwrap(), 0);
    }
    assert_eq!((a.keeper.asked(), b.keeper.asked()), (2, 2));
}

#[tokio::test]
async fn data_right_behind_the_clients_finished_is_not_lost() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for size in [1, 100, 5_000, 100_000] {
        let client = async {
            let mut stream = connect(plain_client(provider(), Some(&leaf)), node.address())
                .await
                .unwrap();
            stream.write_all(&vec![7; size]).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let server = async {
            let mut accepted = node.accept().await.unwrap();
            let mut heard = Vec::new();
            accepted.stream.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (_stream, heard) = tokio::join!(client, server);
        assert!(
            heard.len() == size && heard.iter().all(|byte| *byte == 7),
            "{size}"
        );
    }
}

#[tokio::test]
async fn the_server_chooses_the_suite_and_uses_the_clients_group() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    assert_ne!(
        provider.cipher_suites[0].suite(),
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::SECP256R1],
        ..provider
    });
    let client = connect(plain_client(provider, Some(&leaf)), node.address());
    let (ours, theirs) = tokio::join!(node.accept(), client);
    let facts = ours.unwrap().facts;
    assert_eq!(
        (facts.suite, facts.group),
        ("TLS_AES_128_GCM_SHA256", "secp256r1")
    );
    drop(theirs);
}

#[tokio::test]
async fn no_session_is_resumed_and_no_ticket_is_given() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(provider(), Some(&leaf));
    for _ in 0..3 {
        let (ours, theirs) = tokio::join!(node.accept(), connect(config.clone(), node.address()));
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        ours.stream.write_all(b"x").await.unwrap();
        theirs.read_exact(&mut [0]).await.unwrap();
        let state = theirs.get_ref().1;
        assert_eq!(state.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(state.tls13_tickets_received(), 0);
    }
    assert_eq!(node.keeper.asked(), 3);
}

#[tokio::test]
async fn a_hello_retry_request_ends_in_a_connection() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    let config = plain_client(forcing_a_retry(), Some(&leaf));
    let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
    assert_eq!(ours.unwrap().facts.group, "x25519");
    let kind = theirs.unwrap().get_ref().1.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
}

#[tokio::test]
async fn a_node_without_a_credential_for_the_role_says_so() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let bare = Generation::new(PeerPolicy::default(), &node.anchors, None, None).unwrap();
    node.generations.send_replace(Arc::new(bare));
    let (ours, _tcp) = tokio::join!(node.accept(), TcpStream::connect(node.address()));
    assert!(
        matches!(ours, Err(HandshakeError::NoCredential(TlsRole::Server))),
        "{ours:?}"
    );
    let ours = node.dial(B, node.address()).await;
    assert!(
        matches!(ours, Err(HandshakeError::NoCredential(TlsRole::Client))),
        "{ours:?}"
    );
}

#[test]
fn a_chain_and_a_key_that_do_not_belong_together_are_no_credential() {
    let authority = TestAuthority::new();
    let [server, other] = [(); 2].map(|()| authority.issue(&Profile::of(TlsRole::Server, A)));
    let client = authority.issue(&Profile::of(TlsRole::Client, A));
    let keeper = TestKeeper::start(&TestToken::default(), &server, &client);
    let make = |role, pem: &str, leaf| Credential::new(role, pem, keeper.key(role, leaf));
    assert!(make(TlsRole::Server, &server.pem, &server).is_ok());
    let fault = make(TlsRole::Server, &server.pem, &other).unwrap_err();
    assert!(matches!(fault, CredentialError::OtherKey(_)), "{fault:?}");
    let fault = make(TlsRole::Server, &client.pem, &client).unwrap_err();
    assert!(
        matches!(fault, CredentialError::OtherRole { .. }),
        "{fault:?}"
    );
    let fault = make(TlsRole::Server, "", &server).unwrap_err();
    assert!(matches!(fault, CredentialError::Length(0)), "{fault:?}");
    let fault = make(TlsRole::Server, &server.pem.repeat(9), &server).unwrap_err();
    assert!(matches!(fault, CredentialError::Length(9)), "{fault:?}");
    let broken = server.pem.replacen("MI", "!!", 1);
    let fault = make(TlsRole::Server, &broken, &server).unwrap_err();
    assert!(matches!(fault, CredentialError::NotPem(_)), "{fault:?}");
    let fault = make(TlsRole::Server, &authority.pem(), &server).unwrap_err();
    assert!(
        matches!(
            fault,
            CredentialError::EndEntity(Reason::AuthorityCertificate)
        ),
        "{fault:?}"
    );
}

#[test]
fn a_key_signs_only_with_a_scheme_that_the_peer_offers() {
    let authority = TestAuthority::new();
    let leaf = authority.issue(&Profile::of(TlsRole::Server, A));
    let keeper = TestKeeper::start(&TestToken::default(), &leaf, &leaf);
    let credential = Credential::new(
        TlsRole::Server,
        &leaf.pem,
        keeper.key(TlsRole::Server, &leaf),
    )
    .unwrap();
    let key = credential.certified(SignatureRecord::unused()).key;
    let [ours, other] = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::RSA_PSS_SHA256,
    ];
    let signer = key.choose_scheme(&[other, ours]).unwrap();
    assert_eq!(signer.scheme(), ours);
    assert!(key.choose_scheme(&[other]).is_none());
    // Not a CertificateVerify input: the keeper refuses, and the refusal comes through.
    let refused = signer.sign(b"a certificate request").unwrap_err();
    let refused = HandshakeError::from(refused);
    assert!(
        matches!(refused, HandshakeError::LocalSigning(_)),
        "{refused:?}"
    );
}
