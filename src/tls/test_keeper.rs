//! A keeper for tests: the real protocol over a real socket pair, but keys in memory and a delay
//! on demand. It signs only what a keeper may sign.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::TokenKey;
use crate::keeper::ask::Asker;
use crate::keeper::message::{KeyIndex, MAX_REPLY, MAX_REQUEST, Refusal, Reply, Request};
use crate::keeper::purpose::certificate_verify;
use crate::policy::test_authority::TestLeaf;
use crate::role::TlsRole;
use crate::token::KeyKind;

/// The process id that the test keeper claims.
pub(super) const TEST_KEEPER: u32 = 4242;

/// How long it may take until something goes on that does.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct TestKeeper {
    pub(super) asker: Arc<Asker>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
pub(super) struct TestToken {
    pub(super) sessions: usize,
    pub(super) delay: Duration,
    /// It signs when this has gone on, and not at all when it stands still.
    pub(super) waits_for: Option<Arc<AtomicUsize>>,
    pub(super) broken: bool,
}

impl Default for TestToken {
    fn default() -> Self {
        Self {
            sessions: 2,
            delay: Duration::ZERO,
            waits_for: None,
            broken: false,
        }
    }
}

impl TestKeeper {
    /// Key 0 is the server's, key 1 the client's.
    pub(super) fn start(token: &TestToken, server: &TestLeaf, client: &TestLeaf) -> Self {
        let keys = Arc::new([
            (TlsRole::Server, key_of(server)),
            (TlsRole::Client, key_of(client)),
        ]);
        let asked = Arc::new(AtomicUsize::new(0));
        let mut channels = Vec::new();
        for _ in 0..token.sessions {
            let (near, far) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            let (token, keys, asked) = (token.clone(), keys.clone(), asked.clone());
            thread::spawn(move || serve(&far, &token, keys.as_slice(), &asked));
            channels.push(near);
        }
        let asker = Arc::new(Asker::new(channels, 2 * PATIENCE).unwrap());
        Self { asker, asked }
    }

    pub(super) fn key(&self, role: TlsRole, leaf: &TestLeaf) -> TokenKey {
        let index = KeyIndex(u8::from(role == TlsRole::Client));
        TokenKey {
            index,
            kind: KeyKind::P256,
            spki: leaf.spki(),
            token: "test".into(),
            asker: self.asker.clone(),
        }
    }

    /// How many signatures it was asked for.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn key_of(leaf: &TestLeaf) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, leaf.key.serialized_der()).unwrap()
}

fn serve(
    channel: &OwnedFd,
    token: &TestToken,
    keys: &[(TlsRole, EcdsaKeyPair)],
    asked: &AtomicUsize,
) {
    let mut packet = [0; MAX_REQUEST + 1];
    while let Ok((length @ 1.., _)) = rustix::net::recv(channel, &mut packet, RecvFlags::empty()) {
        let request = Request::decode(&packet[..length]).unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        thread::sleep(token.delay);
        let works = !token.broken && token.waits_for.as_deref().is_none_or(goes_on);
        let (role, key) = &keys[usize::from(request.key.0)];
        let signature = certificate_verify(*role, request.input)
            .filter(|_| works)
            .map(|input| key.sign(&SystemRandom::new(), input.as_bytes()).unwrap());
        let outcome = signature.as_ref().map(AsRef::as_ref).ok_or(Refusal::Token);
        let reply = Reply {
            id: request.id,
            keeper: TEST_KEEPER,
            outcome,
        };
        let mut packet = [0; MAX_REPLY];
        let length = reply.encode(&mut packet).unwrap();
        if rustix::net::send(channel, &packet[..length], SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
}

/// Waits until `beats` grows, but not for ever.
fn goes_on(beats: &AtomicUsize) -> bool {
    let before = beats.load(Ordering::SeqCst);
    (0..PATIENCE.as_millis()).any(|_| {
        thread::sleep(Duration::from_millis(1));
        beats.load(Ordering::SeqCst) > before
    })
}
