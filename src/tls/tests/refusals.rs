//! Handshakes that must not end in a connection.

use super::*;

#[tokio::test]
async fn a_client_that_is_not_a_listed_peer_with_its_own_key_is_refused() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let of = |profile: Profile| authority.issue(&profile);
    let good = || Profile::of(TlsRole::Client, B);

    let (error, alert) = met(&node, None).await;
    assert!(matches!(error, HandshakeError::NoCertificate), "{error:?}");
    assert_eq!(alert, AlertDescription::CertificateRequired);

    let strangers = TestAuthority::new().issue(&good());
    node.lists(&lists_client(&strangers));
    let (error, alert) = met(&node, Some(&strangers)).await;
    // The strangers' authority has the name of ours, so its signature gives it away.
    assert!(
        matches!(
            &error,
            HandshakeError::NotTrusted(Error::InvalidCertificate(CertificateError::BadSignature))
        ),
        "{error:?}"
    );
    assert_eq!(alert, AlertDescription::DecryptError);

    for years in [(2020, 2021), (3000, 3001)] {
        let leaf = of(Profile { years, ..good() });
        node.lists(&lists_client(&leaf));
        let (error, alert) = met(&node, Some(&leaf)).await;
        assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");
        assert_eq!(alert, AlertDescription::CertificateExpired);
    }

    // WebPKI already refuses a certificate that is only a server's.
    let leaf = of(Profile {
        usages: vec![SERVER_AUTH],
        ..good()
    });
    node.lists(&lists_client(&leaf));
    let (error, _) = met(&node, Some(&leaf)).await;
    assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");

    let (both, unpinned, unlisted) = (
        of(Profile {
            usages: vec![CLIENT_AUTH, SERVER_AUTH],
            ..good()
        }),
        of(good()),
        of(Profile::of(TlsRole::Client, "spiffe://mesh.example/node/c")),
    );
    let twice = of(Profile {
        uris: vec![B.into(), A.into()],
        ..good()
    });
    for (leaf, policy, reason) in [
        (&both, lists_client(&both), Reason::WrongExtendedKeyUsage),
        (&unpinned, lists_client(&both), Reason::KeyNotPinned),
        (&unlisted, lists_client(&unlisted), Reason::Unlisted),
        (
            &unpinned,
            listing(B, None, Some(unpinned.pin()), None),
            Reason::NotInThatRole,
        ),
        (&twice, lists_client(&twice), Reason::SeveralIdentities),
    ] {
        node.lists(&policy);
        let (error, alert) = met(&node, Some(leaf)).await;
        assert!(
            matches!(error, HandshakeError::Refused(found) if found == reason),
            "{error:?}"
        );
        assert_eq!(error.code(), reason.code());
        // One alert for all reasons: a stranger cannot probe the policy.
        assert_eq!(alert, AlertDescription::CertificateUnknown);
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_peer_dialled_is_refused_without_our_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let of = |profile: Profile| authority.issue(&profile);
    let good = || Profile::of(TlsRole::Server, B);
    let leaf = of(good());
    let lists = |pin| move |address| listing(B, Some(address), Some(pin), None);

    let refusals = [
        (
            of(Profile::of(TlsRole::Server, "spiffe://mesh.example/node/c")),
            Reason::NotThePeerDialled,
        ),
        (of(good()), Reason::KeyNotPinned),
        (
            of(Profile {
                usages: vec![SERVER_AUTH, CLIENT_AUTH],
                ..good()
            }),
            Reason::WrongExtendedKeyUsage,
        ),
    ];
    for (leaf, reason) in &refusals {
        let config = plain_server(leaf, Some(&authority));
        let pin = if *reason == Reason::KeyNotPinned {
            spare_pin("other")
        } else {
            leaf.pin()
        };
        let error = dialled(&node, config, lists(pin)).await.unwrap_err();
        assert!(
            matches!(error, HandshakeError::Refused(found) if found == *reason),
            "{error:?}"
        );
    }
    let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let config = plain_server(&leaf, Some(&authority));
    let policy = |_| listing(B, Some(elsewhere), Some(leaf.pin()), None);
    let error = dialled(&node, config, policy).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Refused(Reason::AddressNotOfPeer)),
        "{error:?}"
    );
    let config = plain_server(&leaf, Some(&authority));
    let policy = |address: SocketAddr| {
        listing(
            "spiffe://mesh.example/node/c",
            Some(address),
            Some(leaf.pin()),
            None,
        )
    };
    let error = dialled(&node, config, policy).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Refused(Reason::Unlisted)),
        "{error:?}"
    );

    for leaf in [
        TestAuthority::new().issue(&good()),
        of(Profile {
            years: (2020, 2021),
            ..good()
        }),
        of(Profile {
            years: (3000, 3001),
            ..good()
        }),
        of(Profile {
            usages: vec![CLIENT_AUTH],
            ..good()
        }),
    ] {
        let config = plain_server(&leaf, Some(&authority));
        let error = dialled(&node, config, lists(leaf.pin())).await.unwrap_err();
        assert!(matches!(error, HandshakeError::NotTrusted(_)), "{error:?}");
    }
    assert_eq!(node.keeper.asked(), 0);

    let config = plain_server(&leaf, Some(&authority));
    let connection = dialled(&node, config, lists(leaf.pin())).await.unwrap();
    assert_eq!(connection.facts.peer.name(), "peer");
    assert_eq!(node.keeper.asked(), 1);
}

#[tokio::test]
async fn a_server_that_does_not_want_our_certificate_or_h2_is_refused() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Server, B));
    let lists = |address| listing(B, Some(address), Some(leaf.pin()), None);
    let error = dialled(&node, plain_server(&leaf, None), lists)
        .await
        .unwrap_err();
    assert!(matches!(error, HandshakeError::NotMutual), "{error:?}");
    let mut config = plain_server(&leaf, Some(&authority));
    config.alpn_protocols.clear();
    let error = dialled(&node, config, lists).await.unwrap_err();
    assert!(matches!(error, HandshakeError::NotH2), "{error:?}");
}

#[tokio::test]
async fn a_client_without_h2_costs_no_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = plain_client(provider(), Some(&leaf));
        config.alpn_protocols = offered;
        let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
        assert!(matches!(ours, Err(HandshakeError::NotH2)), "{ours:?}");
        let theirs = theirs.unwrap_err().downcast::<Error>().unwrap();
        assert_eq!(
            theirs,
            Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        );
    }
    assert_eq!(node.keeper.asked(), 0);
}

#[tokio::test]
async fn what_is_not_tls_1_3_is_refused_at_once_and_costs_no_signature() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    for (bytes, alerted) in [
        (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec(), true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), true),
        (vec![0xff; 10_000], true),
        (vec![0; 100], true),
        (tls12_client_hello(), true),
        (vec![22, 3, 1, 0xff, 0xff], true),
        (vec![22, 3, 1, 0, 100, 1], false),
        (Vec::new(), false),
    ] {
        let client = async {
            let mut tcp = TcpStream::connect(node.address()).await.unwrap();
            tcp.write_all(&bytes).await.unwrap();
            if !alerted {
                tcp.shutdown().await.unwrap();
            }
            let mut heard = Vec::new();
            tcp.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (ours, heard) = tokio::join!(node.accept(), client);
        let ours = ours.unwrap_err();
        match alerted {
            true => assert!(matches!(ours, HandshakeError::Peer(_)), "{ours:?}"),
            false => assert!(
                matches!(ours, HandshakeError::Io(_) | HandshakeError::Peer(_)),
                "{ours:?}"
            ),
        }
        assert_eq!(
            heard.first().copied() == Some(21),
            alerted,
            "{bytes:?} → {heard:?}"
        );
    }
    assert_eq!(node.keeper.asked(), 0);
}

/// A ClientHello as TLS 1.2 has it: no `supported_versions` (RFC 8446 §4.2.1).
fn tls12_client_hello() -> Vec<u8> {
    let extensions: &[&[u8]] = &[
        &[0, 10, 0, 4, 0, 2, 0, 23],         // supported_groups: secp256r1
        &[0, 13, 0, 4, 0, 2, 4, 3],          // signature_algorithms: ECDSA P-256
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], // ALPN: h2
    ];
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let mut message = vec![22, 3, 1, 0, u8::try_from(body.len() + 4).unwrap(), 1, 0, 0];
    message.push(u8::try_from(body.len()).unwrap());
    message.extend(body);
    message
}

#[tokio::test]
async fn a_peer_that_stops_talking_meets_the_deadline() {
    let authority = TestAuthority::new();
    let deadline = Some(Duration::from_millis(200));
    let node = Node::start(
        &authority,
        Options {
            deadline,
            ..Options::default()
        },
    )
    .await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    // Nothing, part of a ClientHello, and a whole one without an answer to ours.
    let mut state = rustls::ClientConnection::new(
        Arc::new(plain_client(provider(), Some(&leaf))),
        ServerName::try_from("node").unwrap(),
    )
    .unwrap();
    let mut hello = Vec::new();
    state.write_tls(&mut hello).unwrap();
    for length in [0, 1, 5, 100, hello.len()] {
        let mut tcp = TcpStream::connect(node.address()).await.unwrap();
        tcp.write_all(&hello[..length]).await.unwrap();
        let ours = node.accept().await.unwrap_err();
        assert!(
            matches!(ours, HandshakeError::Deadline(_)),
            "{length}: {ours:?}"
        );
    }
    assert_eq!(node.keeper.asked(), 1);
}

#[tokio::test]
async fn a_certificate_that_was_granted_before_is_decided_about_every_time() {
    let authority = TestAuthority::new();
    let node = Node::start(&authority, Options::default()).await;
    let leaf = authority.issue(&Profile::of(TlsRole::Client, B));
    node.lists(&lists_client(&leaf));
    for _ in 0..2 {
        let config = plain_client(provider(), Some(&leaf));
        let (ours, theirs) = tokio::join!(node.accept(), connect(config, node.address()));
        let granted = ours.unwrap().facts.peer;
        assert_eq!(
            (granted.id().as_str(), granted.end_entity().pin()),
            (B, leaf.pin())
        );
        theirs.unwrap();
    }
    // Another key of the same peer is not taken for the one that was seen.
    let other = authority.issue(&Profile::of(TlsRole::Client, B));
    let (error, _) = met(&node, Some(&other)).await;
    assert!(
        matches!(error, HandshakeError::Refused(Reason::KeyNotPinned)),
        "{error:?}"
    );
    node.lists("");
    let (error, _) = met(&node, Some(&leaf)).await;
    assert!(
        matches!(error, HandshakeError::Refused(Reason::Unlisted)),
        "{error:?}"
    );
}

#[test]
fn what_comes_behind_a_close_notify_is_no_work() {
    let authority = TestAuthority::new();
    let leaf = authority.issue(&Profile::of(TlsRole::Server, A));
    let config = Arc::new(plain_server(&leaf, None));
    let name = ServerName::try_from("a.example").unwrap();
    for whole in [true, false] {
        let mut server: Box<rustls::Connection> = Box::new(
            rustls::ServerConnection::new(config.clone())
                .unwrap()
                .into(),
        );
        let client = plain_client(provider(), None);
        let client = rustls::ClientConnection::new(Arc::new(client), name.clone()).unwrap();
        let mut client = rustls::Connection::from(client);
        let mut flight = exchange::drain(&mut client);
        if whole {
            while client.is_handshaking() {
                let step = exchange::advance(server, &flight);
                server = step.outcome.unwrap();
                client.read_tls(&mut &step.output[..]).unwrap();
                client.process_new_packets().unwrap();
                flight = exchange::drain(&mut client);
            }
            client.send_close_notify();
            flight.extend(exchange::drain(&mut client));
        } else {
            // A warning, close_notify (RFC 8446 §6).
            flight = vec![21, 3, 3, 0, 2, 1, 0];
        }
        // More than is read at once.
        flight.extend([0; 20_000]);
        let outcome = exchange::advance(server, &flight).outcome;
        match whole {
            true => assert!(!outcome.unwrap().is_handshaking()),
            false => assert!(outcome.is_err()),
        }
    }
}
