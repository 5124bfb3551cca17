//! The keeper is not a signing oracle. The test plays the supervisor and then a node that was taken
//! over: it holds the channel to a real keeper process on a real token, and says whatever it likes.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use fastness::keeper::message::{KeyIndex, MAX_REQUEST, Refusal, Reply, Request};
use fastness::keeper::purpose;
use fastness::role::TlsRole;
use fastness::token::{Scheme, verify};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use serde_json::{Value, json};

use crate::support::{FASTNESS, Mesh, PATIENCE, full_pipe};

const SERVER: KeyIndex = KeyIndex(0);
const CLIENT: KeyIndex = KeyIndex(1);

/// A real keeper with the server and the client key of node `a`.
struct Keeper {
    process: Child,
    control: UnixStream,
    channel: OwnedFd,
    /// SubjectPublicKeyInfo of the server and of the client key.
    spki: [Vec<u8>; 2],
    next_id: u64,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Keeper {
    fn start(mesh: &Mesh) -> Self {
        Self::start_logging(mesh, "error", Stdio::inherit())
    }

    fn start_logging(mesh: &Mesh, level: &str, log: Stdio) -> Self {
        let token = mesh.tokens("a");
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = token
            .command(FASTNESS)
            .arg("role-keeper")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let (channel, far) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &channel,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )
        .unwrap();
        let spki = ["server", "client"].map(|role| spki_of(mesh, role));
        let keys: Vec<Value> = ["server", "client"]
            .iter()
            .zip(&spki)
            .map(|(role, spki)| {
                json!({ "place": role, "role": role, "uri": format!("pkcs11:token=a;object={role}"), "spki": spki })
            })
            .collect();
        let setup = json!({ "Setup": {
            "place": "token[0]",
            "log": { "level": level, "format": "human" },
            "module": token.module,
            "token": "pkcs11:token=a",
            "pin": "stream",
            "attended": true,
            "trusted": false,
            "sessions": 1,
            "probe_ms": 10_000,
            "keys": keys,
            "ports": [],
        } });
        let pin = File::open(token.folder.join("pin")).unwrap();
        send_setup(&control, &setup, &[pin.as_fd(), far.as_fd()]);
        let mut keeper = Self {
            process,
            control,
            channel,
            spki,
            next_id: 1,
        };
        for step in ["HasPin", "LoggingIn", "LoggedIn"] {
            assert_eq!(keeper.hear(), step);
        }
        let ready = keeper.hear();
        assert!(ready.get("Ready").is_some(), "{ready}");
        keeper
    }

    fn hear(&mut self) -> Value {
        let mut length = [0; 4];
        self.control.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.control.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn vitals(&mut self) -> Value {
        let order = br#""Poll""#;
        self.control
            .write_all(&u32::try_from(order.len()).unwrap().to_be_bytes())
            .unwrap();
        self.control.write_all(order).unwrap();
        self.hear()["Vitals"].take()
    }

    /// One packet there, one back.
    fn exchange(&self, packet: &[u8]) -> (u64, Result<Vec<u8>, Refusal>) {
        rustix::net::send(&self.channel, packet, SendFlags::NOSIGNAL).unwrap();
        let mut answer = [0; 1024];
        let (length, _) =
            rustix::net::recv(&self.channel, &mut answer, RecvFlags::empty()).unwrap();
        let reply = Reply::decode(&answer[..length]).unwrap();
        (reply.id, reply.outcome.map(<[u8]>::to_vec))
    }

    fn ask(&mut self, key: KeyIndex, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Refusal> {
        let id = self.next_id;
        self.next_id += 1;
        // By hand: an attacker is not held to what our own encoder lets through.
        let packet = [
            &id.to_be_bytes()[..],
            &[key.0],
            &scheme.code().to_be_bytes(),
            input,
        ]
        .concat();
        let (answered, outcome) = self.exchange(&packet);
        if outcome.is_ok() {
            assert_eq!(answered, id);
        }
        outcome
    }
}

fn send_setup(control: &UnixStream, setup: &Value, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
    let body = setup.to_string().into_bytes();
    let frame = [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = rustix::net::sendmsg(
        control,
        &[IoSlice::new(&frame)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    (&*control).write_all(&frame[sent..]).unwrap();
}

fn spki_of(mesh: &Mesh, role: &str) -> Vec<u8> {
    let pem = Command::new("openssl")
        .args(["x509", "-noout", "-pubkey", "-in"])
        .arg(mesh.path(&format!("a/{role}.pem")))
        .output()
        .unwrap();
    let text = String::from_utf8(pem.stdout).unwrap();
    let (_, document) = der::Document::from_pem(&text).unwrap();
    document.into_vec()
}

fn random(rng: &mut TestRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn below(rng: &mut TestRng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % bound as u64).unwrap()
}

fn right(role: TlsRole, rng: &mut TestRng) -> Vec<u8> {
    let nonce = random(rng, 32).try_into().unwrap();
    purpose::probe(role, nonce).to_vec()
}

#[test]
fn a_keeper_signs_the_right_form_for_the_right_role_and_nothing_else() {
    let mesh = Mesh::new();
    let mut keeper = Keeper::start(&mesh);
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let scheme = Scheme::EcdsaP256Sha256;

    // The positive control: what a handshake asks for is signed, with the key it was asked for.
    for (key, role) in [(SERVER, TlsRole::Server), (CLIENT, TlsRole::Client)] {
        let input = right(role, &mut rng);
        let signature = keeper.ask(key, scheme, &input).expect("the right form");
        verify(&keeper.spki[usize::from(key.0)], scheme, &input, &signature).expect("by this key");
    }
    let began = Instant::now();
    let signed_before = keeper.vitals()["signatures"].as_u64().unwrap();

    let mut refused = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..20_000 {
        let (role, key) = match rng.next_u32() % 2 {
            0 => (TlsRole::Server, SERVER),
            _ => (TlsRole::Client, CLIENT),
        };
        let mut input = right(role, &mut rng);
        let mut key = key;
        let mut asked = scheme;
        match round % 10 {
            // A byte of padding, context or separator.
            0 => {
                let at = below(&mut rng, 98);
                input[at] ^= 1 << below(&mut rng, 8);
            }
            // The other role's form.
            1 => input = right(role.opposite(), &mut rng),
            // Another length of the transcript hash.
            2 => {
                let wrong = [0, 1, 20, 28, 31, 33, 47, 49, 64][below(&mut rng, 9)];
                input.truncate(98);
                input.extend(random(&mut rng, wrong));
                input.truncate(MAX_REQUEST);
            }
            // Bare digests, and the TLS 1.2 form: two randoms and parameters (RFC 5246 §7.4.3).
            3 => {
                let length = [20, 32, 48, 64][below(&mut rng, 4)];
                input = random(&mut rng, length);
            }
            4 => {
                input = [
                    random(&mut rng, 64),
                    vec![3, 0, 23, 32],
                    random(&mut rng, 32),
                ]
                .concat()
            }
            // Starts of a CertificationRequestInfo and a TBSCertificate (RFC 2986, RFC 5280).
            5 => input = [vec![0x30, 0x81, 0x7f, 2, 1, 0, 0x30], random(&mut rng, 123)].concat(),
            6 => {
                input = [
                    vec![0x30, 0x82, 1, 0, 0xa0, 3, 2, 1, 2],
                    random(&mut rng, 121),
                ]
                .concat()
            }
            // A key that is not there.
            7 => key = KeyIndex(2 + u8::try_from(below(&mut rng, 250)).unwrap()),
            // A scheme that is not the key's.
            8 => {
                asked = [
                    Scheme::EcdsaP384Sha384,
                    Scheme::RsaPssSha256,
                    Scheme::Ed25519,
                ][below(&mut rng, 3)]
            }
            // Anything.
            _ => {
                let length = below(&mut rng, 200);
                input = random(&mut rng, length);
            }
        }
        match keeper.ask(key, asked, &input) {
            Err(refusal) => *refused.entry(format!("{refusal:?}")).or_default() += 1,
            Ok(_) => panic!("round {round}: signed {input:02x?} with key {key:?} as {role}"),
        }
    }

    // Packets that are no requests at all.
    for length in 0..=400 {
        let (_, outcome) = keeper.exchange(&random(&mut rng, length));
        assert!(outcome.is_err(), "{length} random bytes");
    }

    let vitals = keeper.vitals();
    // The health probe signs its own form with each key, at most every few seconds.
    let signed = vitals["signatures"].as_u64().unwrap() - signed_before;
    let probes = 2 * (1 + began.elapsed().as_secs() / 5);
    assert!(
        signed <= probes,
        "{signed} signatures were made where the probes explain {probes}"
    );
    assert_eq!(vitals["refusals"].as_u64().unwrap(), 20_401);
    println!("refused: {refused:?}, and 401 packets that are no requests");

    let input = right(TlsRole::Server, &mut rng);
    let reply = keeper.ask(SERVER, scheme, &input).expect("it still serves");
    verify(&keeper.spki[0], scheme, &input, &reply).expect("as before");
}

/// One line a second at most, however many there are; a log that takes none stalls nothing.
#[test]
fn a_flood_of_refusals_floods_no_log() {
    const FLOOD: u64 = 2_000;
    let mesh = Mesh::new();
    let path = mesh.path("refusals.log");
    let (_unread, full) = full_pipe();
    let file = File::create(&path).unwrap();
    for log in [Stdio::from(file), full] {
        let mut keeper = Keeper::start_logging(&mesh, "warn", log);
        for _ in 0..FLOOD {
            assert!(keeper.exchange(b"x").1.is_err());
        }
        assert_eq!(keeper.vitals()["refusals"].as_u64(), Some(FLOOD));
        let input = right(
            TlsRole::Server,
            &mut TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        );
        let signed = keeper.ask(SERVER, Scheme::EcdsaP256Sha256, &input);
        assert!(signed.is_ok(), "it still serves");
    }
    let log = std::fs::read_to_string(path).unwrap();
    let times: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("request refused"))
        .map(|line| {
            let time = line.split_whitespace().find(|word| word.ends_with('Z'));
            // A second and more lie between two lines, so no two say the same one.
            time.expect("a time").split('.').next().unwrap()
        })
        .collect();
    assert!(!times.is_empty(), "{log}");
    let mut seconds = times.clone();
    seconds.dedup();
    assert_eq!(seconds, times, "{log}");
}

#[test]
fn a_request_from_our_own_encoder_is_as_long_as_the_protocol_says() {
    let mut packet = [0; MAX_REQUEST];
    let input = [0; 146];
    let request = Request {
        id: 7,
        key: SERVER,
        scheme: Scheme::EcdsaP384Sha384,
        input: &input,
    };
    assert_eq!(request.encode(&mut packet), Ok(MAX_REQUEST));
    assert_eq!(Request::decode(&packet), Ok(request));
}
