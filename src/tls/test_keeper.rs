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

pub(super) struct TestKeeper {
    pub(super) asker: Arc<Asker>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
pub(super) struct TestToken {
    pub(super) sessions: usize,
    pub(super) delay: Duration,
    pub(super) broken: bool,
}

impl Default for TestToken {
    fn default() -> Self {
        Self {
            sessions: 2,
            delay: Duration::ZERO,
            broken: false,
        }
    }
}

impl TestKeeper {
    /// Key 0 is the server's, key 1 the client's.
    pub(super) fn start(token: TestToken, server: &TestLeaf, client: &TestLeaf) -> Self {
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
            let (keys, asked) = (keys.clone(), asked.clone());
            thread::spawn(move || serve(&far, token, keys.as_slice(), &asked));
            channels.push(near);
        }
        let asker = Arc::new(Asker::new(channels, Duration::from_secs(5)).unwrap());
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
    token: TestToken,
    keys: &[(TlsRole, EcdsaKeyPair)],
    asked: &AtomicUsize,
) {
    let mut packet = [0; MAX_REQUEST + 1];
    while let Ok((length @ 1.., _)) = rustix::net::recv(channel, &mut packet, RecvFlags::empty()) {
        let request = Request::decode(&packet[..length]).unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        thread::sleep(token.delay);
        let (role, key) = &keys[usize::from(request.key.0)];
        let signature = certificate_verify(*role, request.input)
            .filter(|_| !token.broken)
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
