//! Every Allow has its Deny: what a peer says in its own name, and in another's.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Request;
use proptest::prelude::*;
use prost::Message as _;

use super::front::Front;
use super::{Envelope, Malformed, Method, Reader, Seen, Unread};
use crate::config::{Application, Egress, Kind, Limits, Mode};
use crate::proxy::{Caller, Code, Inspect, Look, Refusal};
use crate::rpc::p2pfl::root_message::Payload;
use crate::rpc::p2pfl::{DirectMessage, GossipMessage, HandShakeRequest, RootMessage, Weights};

/// The learner of the peer `b` in the virtual plan.
const B: &str = "127.77.0.2:6666";
/// Somebody else's.
const C: &str = "127.77.0.3:6666";

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), message].concat()
}

fn hello(addr: &str) -> Vec<u8> {
    framed(&HandShakeRequest { addr: addr.into() }.encode_to_vec())
}

fn gossip() -> Payload {
    Payload::GossipMessage(GossipMessage {
        ttl: 10,
        hash: -77,
        args: vec!["1.5".into(), String::new()],
    })
}

fn direct() -> Payload {
    Payload::DirectMessage(DirectMessage {
        args: vec!["add_model".into(), "x".into()],
    })
}

fn weights(size: usize) -> Payload {
    Payload::Weights(Weights {
        weights: vec![0x80; size],
        contributors: vec![B.into(), C.into()],
        num_samples: 3,
    })
}

fn root(source: &str, cmd: &str, payload: Payload) -> Vec<u8> {
    let message = RootMessage {
        source: source.into(),
        round: Some(-1),
        cmd: cmd.into(),
        payload: Some(payload),
    };
    framed(&message.encode_to_vec())
}

fn front(commands: &[(&str, &[&str])], weights_bytes: u64) -> Arc<dyn Inspect> {
    let listed = |(peer, commands): &(&str, &[&str])| {
        let commands = commands.iter().map(ToString::to_string).collect();
        ((*peer).to_owned(), commands)
    };
    let application = Application {
        mode: Mode::Grpc,
        http2: false,
        kind: Some(Kind::P2pfl),
        upstream: None,
        user: 0,
        health: None,
        connect: None,
        egress: vec![Egress {
            peer: "b".into(),
            at: B.parse().unwrap(),
        }],
        commands: commands.iter().map(listed).collect::<BTreeMap<_, _>>(),
    };
    let limits = Limits {
        weights_bytes,
        ..Limits::default()
    };
    Arc::new(Front::new(&application, &limits))
}

fn begin(front: &Arc<dyn Inspect>, path: &str) -> Result<Box<dyn Look>, Refusal> {
    let caller = Caller::new("b", "spiffe://mesh.example/node/b", "active").unwrap();
    let request = Request::post(path).header("content-type", "application/grpc");
    let (head, ()) = request.body(()).unwrap().into_parts();
    let addresses = ["10.77.0.2:7443".parse().unwrap()];
    let look = Arc::clone(front).begin(&caller, &addresses, &head)?;
    Ok(look.unwrap())
}

/// What a front with P2PFL's own limits says to a request of `b`, in pieces of `cut` bytes.
fn says_in(cut: usize, method: &str, request: &[u8]) -> Result<(), Code> {
    let front = front(&[], 1 << 30);
    let mut look = begin(&front, &format!("/node.NodeServices/{method}")).map_err(|no| no.code)?;
    for piece in request.chunks(cut) {
        look.data(piece).map_err(|refusal| refusal.code)?;
    }
    look.end().map_err(|refusal| refusal.code)
}

#[track_caller]
fn says(method: &str, request: &[u8]) -> Result<(), Code> {
    let said = says_in(usize::MAX, method, request);
    for cut in [1, 2, 7] {
        assert_eq!(says_in(cut, method, request), said, "in pieces of {cut}");
    }
    said
}

#[test]
fn a_peer_speaks_in_its_own_name_alone() {
    for method in ["handshake", "disconnect"] {
        assert_eq!(says(method, &hello(B)), Ok(()));
        // Where the policy dials it.
        assert_eq!(says(method, &hello("10.77.0.2:7443")), Ok(()));
        for forged in [
            C,
            "",
            "127.77.0.2:6667",
            "127.077.0.2:6666",
            "unix:///run/b",
        ] {
            let said = says(method, &hello(forged));
            assert_eq!(said, Err(Code::PermissionDenied), "{method} {forged}");
        }
    }
    for (command, payload) in [("PRE_SEND_MODEL", direct()), ("add_model", weights(100))] {
        let own = root(B, command, payload.clone());
        assert_eq!(says("send", &own), Ok(()), "{command}");
        for forged in [C, ""] {
            let forged = root(forged, command, payload.clone());
            assert_eq!(
                says("send", &forged),
                Err(Code::PermissionDenied),
                "{command}"
            );
        }
    }
}

#[test]
fn gossip_comes_in_anybodys_name_but_not_what_must_come_from_its_source() {
    assert_eq!(says("send", &root(C, "beat", gossip())), Ok(()));
    for command in ["PRE_SEND_MODEL", "add_model", "init_model", "blob", ""] {
        let said = says("send", &root(C, command, gossip()));
        assert_eq!(said, Err(Code::PermissionDenied), "{command}");
    }
    for payload in [direct(), weights(1)] {
        let said = says("send", &root(B, "stop_learning", payload));
        assert_eq!(said, Err(Code::PermissionDenied));
    }
}

#[test]
fn a_peer_gives_the_commands_on_its_list_alone() {
    let front = front(&[("b", &["beat", "blob"])], 1 << 30);
    let says = |command: &str, payload| {
        let mut look = begin(&front, "/node.NodeServices/send").unwrap();
        let said = look.data(&root(B, command, payload));
        said.map_err(|refusal| refusal.code)
    };
    assert_eq!(says("beat", gossip()), Ok(()));
    // A command of the operator's own may travel as it likes.
    for payload in [gossip(), direct(), weights(9)] {
        assert_eq!(says("blob", payload), Ok(()));
    }
    for (command, payload) in [("stop_learning", gossip()), ("add_model", weights(9))] {
        assert_eq!(says(command, payload), Err(Code::PermissionDenied));
    }
}

#[test]
fn what_is_too_long_is_refused_by_its_length_alone() {
    let front = front(&[], 5000);
    let mut look = begin(&front, "/node.NodeServices/send").unwrap();
    let long = root(B, "add_model", weights(5000));
    assert_eq!(look.data(&long[..4]), Ok(()));
    let refused = look.data(&long[4..5]).unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted);
    let mut look = begin(&front, "/node.NodeServices/send").unwrap();
    let short = root(B, "add_model", weights(4000));
    assert_eq!(look.data(&short), Ok(()));

    let many = Payload::GossipMessage(GossipMessage {
        ttl: 1,
        hash: 1,
        args: vec!["x".repeat(1 << 20)],
    });
    let said = says_in(usize::MAX, "send", &root(B, "beat", many));
    assert_eq!(said, Err(Code::ResourceExhausted));
}

#[test]
fn the_verdict_is_there_before_the_payload() {
    let forged = root(C, "add_model", weights(1 << 20));
    let mut look = begin(&front(&[], 1 << 30), "/node.NodeServices/send").unwrap();
    let at = (1..forged.len()).find(|end| look.data(&forged[end - 1..*end]).is_err());
    assert!(at.unwrap() < 64, "{at:?}");
}

#[test]
fn other_methods_and_other_bodies_are_refused() {
    let front = front(&[], 1 << 30);
    for path in [
        "/node.NodeServices/other",
        "/node.NodeServices/",
        "/other.Service/send",
        "/send",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        assert_eq!(begin(&front, path).err().unwrap().code, Code::Unimplemented);
    }
    let good = root(B, "beat", gossip());
    let compressed = [&[1], &good[1..]].concat();
    assert_eq!(says("send", &compressed), Err(Code::Unimplemented));
    for wrong in [
        [&[2], &good[1..]].concat(),
        good.repeat(2),
        [&good[..], &[0]].concat(),
        good[..good.len() - 1].to_vec(),
        Vec::new(),
        framed(b""),
        hello(B),
    ] {
        assert_eq!(
            says("send", &wrong),
            Err(Code::InvalidArgument),
            "{wrong:?}"
        );
    }
}

#[test]
fn there_is_one_reading_of_a_message() {
    let read = |message: &[u8]| {
        let mut reader = Reader::new(Method::Send, 1 << 20);
        let seen = reader.take(&framed(message))?;
        reader.end()?;
        Ok(seen.unwrap())
    };
    let malformed = |what| Err(Unread::Malformed(what));
    let message = |envelope| Seen::Message {
        source: "a".into(),
        command: "c".into(),
        envelope,
    };
    let (a, c) = (b"\x0a\x01a", b"\x1a\x01c");
    let of = |parts: &[&[u8]]| parts.concat();
    assert_eq!(read(&of(&[a, c, b"\x22\0"])), Ok(message(Envelope::Gossip)));
    assert_eq!(read(&of(&[a, c, b"\x2a\0"])), Ok(message(Envelope::Direct)));
    assert_eq!(
        read(&of(&[a, c, b"\x32\0"])),
        Ok(message(Envelope::Weights))
    );
    let b = b"\x0a\x01b";
    for (parts, fault) in [
        // The last of two would count, or the first.
        (&[&a[..], b, c, b"\x2a\0"][..], Malformed::Order),
        (&[a, c, b, b"\x2a\0"], Malformed::Order),
        (&[a, c, b"\x2a\0", b], Malformed::Order),
        // Both sides of the oneof.
        (&[a, c, b"\x22\0", b"\x2a\0"], Malformed::Order),
        (&[a, c, b"\x2a\0", b"\x2a\0"], Malformed::Order),
        (&[c, a, b"\x2a\0"], Malformed::Order),
        // Weights in their fields' wrong order, and twice.
        (&[a, c, b"\x32\x05\x18\x01\x0a\x01w"], Malformed::Order),
        (&[a, c, b"\x32\x06\x0a\x01v\x0a\x01w"], Malformed::Order),
        // A tag, a length and a number that are longer than they must be.
        (&[b"\x8a\0\x01a", c, b"\x2a\0"], Malformed::UnknownField),
        (&[b"\x0a\x81\0a", c, b"\x2a\0"], Malformed::Number),
        (&[a, b"\x10\x81\x00", c, b"\x2a\0"], Malformed::Number),
        (
            &[a, b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"],
            Malformed::Number,
        ),
        // Groups, fixed numbers, fields of no version, a text as a number.
        (&[a, c, b"\x2b\x2c"], Malformed::UnknownField),
        (&[b"\x0d\0\0\0\0", c, b"\x2a\0"], Malformed::UnknownField),
        (&[a, c, b"\x3a\0"], Malformed::UnknownField),
        (&[b"\x08\x01", c, b"\x2a\0"], Malformed::UnknownField),
        (&[a, c, b"\x2a\x02\x0a\0"], Malformed::UnknownField),
        (&[a, c, b"\x2a\x03\x1a\x02x"], Malformed::Overlong),
        (&[a, c, b"\x2a\x01"], Malformed::Overlong),
        (&[a, c], Malformed::NoPayload),
        (&[b"\x0a\x81\x01"], Malformed::Overlong),
    ] {
        assert_eq!(read(&of(parts)), malformed(fault), "{parts:?}");
    }
    let long = [&[0x0a, 0x81, 0x01][..], &[b'x'; 129], c, b"\x2a\0"].concat();
    assert_eq!(read(&long), malformed(Malformed::LongText));
    let latin = read(b"\x0a\x01\xe9\x1a\x01c\x2a\0");
    assert!(matches!(
        latin,
        Err(Unread::Malformed(Malformed::NotText(_)))
    ));
    assert_eq!(read(b"\x0a\x05a"), malformed(Malformed::Overlong));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What prost writes is read as it was meant, however it is cut.
    #[test]
    fn a_message_is_read_as_it_was_written(
        source in "[a-z0-9.:/]{0,128}", cmd in "\\PC{0,16}", round: Option<i32>, cut in 1..50_usize,
        args in proptest::collection::vec("\\PC{0,12}", 0..5), ttl: i32, hash: i64, kind in 0..3,
        bytes in proptest::collection::vec(any::<u8>(), 0..300), num_samples: i32,
    ) {
        let (payload, envelope) = match kind {
            0 => (Payload::GossipMessage(GossipMessage { ttl, hash, args }), Envelope::Gossip),
            1 => (Payload::DirectMessage(DirectMessage { args }), Envelope::Direct),
            _ => (Payload::Weights(Weights { weights: bytes, contributors: args, num_samples }), Envelope::Weights),
        };
        let message = RootMessage { source: source.clone(), round, cmd: cmd.clone(), payload: Some(payload) };
        let mut reader = Reader::new(Method::Send, 1 << 20);
        let mut seen = Vec::new();
        for piece in framed(&message.encode_to_vec()).chunks(cut) {
            seen.extend(reader.take(piece).map_err(|unread| TestCaseError::fail(unread.to_string()))?);
        }
        prop_assert_eq!(reader.end(), Ok(()));
        prop_assert_eq!(seen, vec![Seen::Message { source, command: cmd, envelope }]);
    }
}
