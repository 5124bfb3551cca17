//! No input makes a parser panic, and what it takes it gives back. A bounded run of what `fuzz/` does
//! without bounds: the same entry points.

use fastness::config::Config;
use fastness::keeper::message::{KeyIndex, MAX_REPLY, MAX_REQUEST, Refusal, Reply, Request};
use fastness::keeper::purpose;
use fastness::p2pfl::{Method, Reader};
use fastness::policy::{EndEntity, MethodPattern, Methods, PeerPolicy, SpkiPin};
use fastness::role::TlsRole;
use fastness::token::{KeyUri, Scheme, TokenUri};
use proptest::prelude::*;

use crate::support::files::write_private;

/// Text that is often nearly a PKCS#11 URI.
fn uri() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("pkcs11:".to_owned()),
        Just("token=".to_owned()),
        Just(";object=".to_owned()),
        Just(";id=%00%ff".to_owned()),
        Just(";serial=".to_owned()),
        Just("?pin-value=".to_owned()),
        Just("?module-path=".to_owned()),
        Just("%".to_owned()),
        "[ -~]{0,6}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Text that is often nearly a peer policy.
fn policy() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[[peer]]\n".to_owned()),
        Just("[peer.server]\n".to_owned()),
        Just("[peer.client]\n".to_owned()),
        "name = '[a-c]{0,3}'\n",
        "id = 'spiffe://[a-z./]{0,9}'\n",
        "addresses = \\['[a-z0-9.:]{0,12}'\\]\n",
        "methods = \\['/[a-z.]{0,4}/[A-Z*/%]{0,3}'\\]\n",
        "active = 'sha256/[A-Za-z0-9+/]{42}A='\n",
        "backup = 'sha256/[A-Za-z0-9+/]{42}E='\n",
        "\\PC{0,8}\n",
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// Bytes that are often nearly a request of P2PFL.
fn p2pfl() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\x0a\x01a".to_vec()),
        Just(b"\x10\x01".to_vec()),
        Just(b"\x1a\x04beat".to_vec()),
        Just(b"\x22\x04\x08\x0a\x10\x05".to_vec()),
        Just(b"\x2a\x00".to_vec()),
        Just(b"\x32\x03\x0a\x01w".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    let message = proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    (message, 0..20_u8).prop_map(|(message, off)| {
        let length = u8::try_from(message.len()).expect("short");
        let length = if off == 0 {
            length.wrapping_add(1)
        } else {
            length
        };
        [&[0, 0, 0, 0, length][..], &message].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_uri_is_refused_or_written_back_the_same(text in uri()) {
        if let Ok(uri) = text.parse::<TokenUri>() {
            prop_assert_eq!(uri.to_string().parse().ok(), Some(uri));
        }
        if let Ok(uri) = text.parse::<KeyUri>() {
            prop_assert_eq!(uri.to_string().parse().ok(), Some(uri));
        }
        prop_assert!(!text.contains("pin-value=") || text.parse::<TokenUri>().is_err());
    }

    #[test]
    fn a_request_is_refused_or_encoded_back_to_the_byte(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = Request::decode(&packet) {
            let mut again = [0; MAX_REQUEST];
            let length = request.encode(&mut again).expect("it was short enough to read");
            prop_assert_eq!(&again[..length], &packet[..]);
        }
    }

    #[test]
    fn a_reply_is_refused_or_encoded_back_to_the_byte(packet in proptest::collection::vec(any::<u8>(), 0..560)) {
        if let Ok(reply) = Reply::decode(&packet) {
            let mut again = [0; MAX_REPLY];
            let length = reply.encode(&mut again).expect("it was short enough to read");
            prop_assert_eq!(&again[..length], &packet[..]);
        }
    }

    #[test]
    fn every_request_and_reply_survives_the_channel(id: u64, key: u8, keeper: u32, input in proptest::collection::vec(any::<u8>(), 1..147)) {
        let request = Request { id, key: KeyIndex(key), scheme: Scheme::EcdsaP256Sha256, input: &input };
        let mut packet = [0; MAX_REQUEST];
        let length = request.encode(&mut packet).expect("short enough");
        prop_assert_eq!(Request::decode(&packet[..length]), Ok(request));
        for outcome in [Ok(&input[..]), Err(Refusal::WrongPurpose)] {
            let reply = Reply { id, keeper, outcome };
            let mut packet = [0; MAX_REPLY];
            let length = reply.encode(&mut packet).expect("short enough");
            prop_assert_eq!(Reply::decode(&packet[..length]), Ok(reply));
        }
    }

    #[test]
    fn what_may_be_signed_for_one_role_may_not_for_the_other(input in proptest::collection::vec(any::<u8>(), 0..160), nonce: [u8; 32]) {
        let both = |input: &[u8]| [TlsRole::Server, TlsRole::Client].map(|role| purpose::certificate_verify(role, input).is_some());
        prop_assert_ne!(both(&input), [true, true]);
        prop_assert_eq!(both(&purpose::probe(TlsRole::Server, nonce)), [true, false]);
        prop_assert_eq!(both(&purpose::probe(TlsRole::Client, nonce)), [false, true]);
    }

    #[test]
    fn a_peer_policy_is_taken_or_every_fault_has_its_place(text in policy()) {
        if let Err(faults) = PeerPolicy::parse(&text) {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.iter().all(|fault| fault.line.is_some() && !fault.problem.is_empty()), "{:?}", faults);
        }
    }

    #[test]
    fn a_listed_method_is_called_by_its_own_name_alone(pattern in "/?[a-b.~-]{0,3}(/[a-b.]{0,2}){0,2}(/[A-B]{0,2}|/\\*|\\*)?", path in "/{0,2}[a-b.%]{0,3}/{0,2}[A-B.;%?*]{0,3}") {
        if let Ok(read) = pattern.parse::<MethodPattern>() {
            let methods = Methods::listed(vec![read]);
            let shown: Vec<_> = methods.patterns().expect("it is listed").collect();
            prop_assert_eq!(&shown, &[&*pattern]);
            let (service, star) = match pattern.strip_suffix("/*") {
                Some(service) => (service, true),
                None => (&*pattern, false),
            };
            prop_assert_eq!(methods.decide(service).is_ok(), true);
            for path in [&*path, &format!("{service}{path}"), &format!("{service}/{path}")] {
                let allowed = methods.decide(path).is_ok();
                prop_assert!(!allowed || path == service || star && path.starts_with(&format!("{service}/")), "{} by {}", path, pattern);
                prop_assert!(!allowed || !path.contains(['%', ';', '?', '*']) && !path.contains("//"), "{} by {}", path, pattern);
            }
        }
    }

    #[test]
    fn a_pin_is_refused_or_written_back_the_same(text in "(sha256/)?[A-Za-z0-9+/=]{0,50}") {
        if let Ok(pin) = text.parse::<SpkiPin>() {
            prop_assert_eq!(pin.to_string(), text);
        }
    }

    #[test]
    fn a_p2pfl_request_is_read_alike_however_it_is_cut(message in p2pfl(), cut in 1..9_usize) {
        for method in [Method::Handshake, Method::Send] {
            let whole = {
                let mut reader = Reader::new(method, 1 << 16);
                reader.take(&message).map(|_| reader.end())
            };
            let mut reader = Reader::new(method, 1 << 16);
            let in_pieces = message.chunks(cut).try_for_each(|piece| reader.take(piece).map(drop));
            prop_assert_eq!(in_pieces.map(|()| reader.end()), whole);
        }
    }

    #[test]
    fn no_bytes_make_the_certificate_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = EndEntity::read(&bytes);
    }
}

#[test]
fn a_spoilt_certificate_never_makes_the_reader_panic() {
    let mesh = crate::support::Mesh::new();
    let pem = mesh.read("a/server.pem");
    let good = {
        use der::Encode;
        x509_cert::Certificate::load_pem_chain(pem.as_bytes()).expect("PEM")[0]
            .to_der()
            .expect("DER")
    };
    assert!(EndEntity::read(&good).is_ok());
    for index in 0..good.len() {
        assert!(EndEntity::read(&good[..index]).is_err(), "cut at {index}");
        for bit in [0x01, 0x80, 0xff] {
            let mut spoilt = good.clone();
            spoilt[index] ^= bit;
            let _ = EndEntity::read(&spoilt);
        }
    }
}

#[test]
fn no_line_left_out_of_a_configuration_makes_it_panic() {
    let mesh = crate::support::Mesh::new();
    let good = mesh.read("a/node.toml");
    let lines: Vec<_> = good.lines().collect();
    for missing in 0..lines.len() {
        let text: String = lines
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != missing)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        let file = mesh.path("a/less.toml");
        write_private(&file, &text);
        match Config::load(&file) {
            Ok(_) => {}
            Err(faults) => assert!(
                faults.iter().all(|fault| !fault.problem.is_empty()),
                "without line {missing}"
            ),
        }
    }
}
