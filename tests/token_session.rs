//! The token room as a library. PKCS#11 state and SOFTHSM2_CONF belong to the process, so each test
//! starts this program once more, for itself, with a SoftHSM of its own.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::softhsm::{MODULE, PIN, Ran, SoftHsm};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use fastness::secret::{PinKind, PinSource, UserPin};
use fastness::token::{
    KeyId, KeyKind, KeySpec, KeyUri, LoginRefusal, Module, ModuleFault, Scheme, Token, TokenError,
    TokenKey, TokenUri, verify,
};

const INSIDE: &str = "FASTNESS_TEST_INSIDE";

/// Runs `body` in a process of its own, in the folder of a SoftHSM with a token "node".
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let hsm = SoftHsm::with_token();
    let mut command = hsm.command(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("token_session::{name}"), "--nocapture"])
        .env(INSIDE, "1");
    let ran = Ran::of(command.output().unwrap()).good();
    print!("{}", ran.out);
}

fn pin(text: &str) -> UserPin {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    UserPin::read(file, PinKind::Stream).unwrap()
}

fn module() -> Module {
    Module::load(Path::new(MODULE)).unwrap()
}

fn name() -> TokenUri {
    "pkcs11:token=node".parse().unwrap()
}

fn token(module: &Module) -> Token {
    let token = module.token(&name()).unwrap();
    token.login(pin(PIN)).unwrap();
    token
}

fn spec(label: &str, kind: KeyKind) -> KeySpec {
    KeySpec {
        label: label.parse().unwrap(),
        id: None,
        kind,
    }
}

#[test]
fn every_scheme_of_every_kind_signs_and_verifies_and_no_other_is_tried() {
    alone(
        "every_scheme_of_every_kind_signs_and_verifies_and_no_other_is_tried",
        || {
            let module = module();
            let token = token(&module);
            let session = token.session().unwrap();
            let schemes = [
                Scheme::EcdsaP256Sha256,
                Scheme::EcdsaP384Sha384,
                Scheme::RsaPssSha256,
                Scheme::RsaPssSha384,
                Scheme::RsaPssSha512,
                Scheme::Ed25519,
            ];
            for kind in [
                KeyKind::P256,
                KeyKind::P384,
                KeyKind::Rsa2048,
                KeyKind::Ed25519,
            ] {
                let key = token.generate(&spec(&kind.to_string(), kind)).unwrap().key;
                for scheme in schemes {
                    let signed = session.sign(&key, scheme, b"message");
                    if kind.schemes().contains(&scheme) {
                        let signature = signed.unwrap();
                        verify(key.spki_der(), scheme, b"message", &signature).unwrap();
                        assert!(verify(key.spki_der(), scheme, b"massage", &signature).is_err());
                    } else {
                        let error = signed.unwrap_err();
                        assert!(
                            matches!(error, TokenError::WrongScheme { .. })
                                && !error.session_is_dead()
                        );
                        assert!(verify(key.spki_der(), scheme, b"message", &[0; 64]).is_err());
                    }
                }
            }
        },
    );
}

#[test]
fn after_an_error_a_session_makes_no_more_calls_and_a_new_one_works() {
    alone(
        "after_an_error_a_session_makes_no_more_calls_and_a_new_one_works",
        || {
            let module = module();
            let token = token(&module);
            let doomed = token.generate(&spec("doomed", KeyKind::P256)).unwrap().key;
            let kept = token.generate(&spec("kept", KeyKind::P256)).unwrap().key;
            let session = token.session().unwrap();
            session
                .sign(&doomed, Scheme::EcdsaP256Sha256, b"m")
                .unwrap();
            token.destroy(doomed.uri()).unwrap();
            let error = session
                .sign(&doomed, Scheme::EcdsaP256Sha256, b"m")
                .unwrap_err();
            assert!(error.session_is_dead());
            let text = error.to_string();
            assert!(
                text.starts_with("CKR_") && text.contains("HANDLE_INVALID from C_SignInit"),
                "{text}"
            );
            let error = session
                .sign(&kept, Scheme::EcdsaP256Sha256, b"m")
                .unwrap_err();
            assert!(matches!(error, TokenError::SessionDead));
            token
                .session()
                .unwrap()
                .sign(&kept, Scheme::EcdsaP256Sha256, b"m")
                .unwrap();
        },
    );
}

#[test]
fn a_wrong_pin_is_one_verdict_and_a_second_login_is_refused() {
    alone(
        "a_wrong_pin_is_one_verdict_and_a_second_login_is_refused",
        || {
            let module = module();
            let token = module.token(&name()).unwrap();
            let error = token.login(pin("000000")).unwrap_err();
            assert!(error.is_pin_verdict() && !error.session_is_dead());
            assert!(matches!(
                error,
                TokenError::Login {
                    refusal: LoginRefusal::WrongPin,
                    ..
                }
            ));
            token.login(pin(PIN)).unwrap();
            for other in [&token, &module.token(&name()).unwrap()] {
                let error = other.login(pin("000000")).unwrap_err();
                assert!(matches!(
                    error,
                    TokenError::Login {
                        refusal: LoginRefusal::AlreadyLoggedIn,
                        ..
                    }
                ));
            }
            token.session().unwrap().keys().unwrap();
        },
    );
}

#[test]
fn the_login_ends_with_the_token_and_the_module_with_its_last_session() {
    alone(
        "the_login_ends_with_the_token_and_the_module_with_its_last_session",
        || {
            let first = module();
            let again = Module::load(Path::new(MODULE)).unwrap_err();
            assert!(matches!(
                again,
                TokenError::Module {
                    fault: ModuleFault::InUse,
                    ..
                }
            ));
            let token = token(&first);
            token.generate(&spec("server", KeyKind::P256)).unwrap();
            let session = token.session().unwrap();
            assert!(first.finalize().is_err());
            drop(token);
            // The login lasts as long as a session does.
            assert_eq!(session.keys().unwrap().len(), 1);
            drop(session);
            let second = module();
            let token = second.token(&name()).unwrap();
            assert!(token.session().unwrap().keys().unwrap().is_empty());
            drop(token);
            second.finalize().unwrap();
            let key: KeyUri = "pkcs11:token=node;object=server".parse().unwrap();
            let key = TokenKey::open(Path::new(MODULE), &key, pin(PIN)).unwrap();
            let signature = key.sign(b"m").unwrap();
            verify(key.spki_der(), key.kind().schemes()[0], b"m", &signature).unwrap();
        },
    );
}

#[test]
fn threads_sign_at_once_each_in_its_own_session() {
    alone("threads_sign_at_once_each_in_its_own_session", || {
        let module = module();
        let token = token(&module);
        let key = token.generate(&spec("server", KeyKind::P256)).unwrap().key;
        let before = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let (token, key) = (&token, &key);
                scope.spawn(move || {
                    let session = token.session().unwrap();
                    for count in 0..200u8 {
                        let message = [thread, count];
                        let signature = session
                            .sign(key, Scheme::EcdsaP256Sha256, &message)
                            .unwrap();
                        verify(
                            key.spki_der(),
                            Scheme::EcdsaP256Sha256,
                            &message,
                            &signature,
                        )
                        .unwrap();
                    }
                });
            }
        });
        println!("800 signatures and checks: {:?}", before.elapsed());
        let session = token.session().unwrap();
        let before = Instant::now();
        for _ in 0..2000 {
            session
                .sign(&key, Scheme::EcdsaP256Sha256, &[7; 130])
                .unwrap();
        }
        println!("one signature: {:?}", before.elapsed() / 2000);
    });
}

#[test]
fn a_key_made_with_a_tokens_own_defaults_is_refused() {
    alone("a_key_made_with_a_tokens_own_defaults_is_refused", || {
        let module = module();
        let token = token(&module);
        // The module is loaded and logged in already; this is the same state, used past our rooms.
        let raw = Pkcs11::new(MODULE).unwrap();
        let slot = raw.get_slots_with_initialized_token().unwrap()[0];
        let id = KeyId::from_bytes(&[1]).unwrap();
        let named = [
            Attribute::Token(true),
            Attribute::Label("loose".into()),
            Attribute::Id(id.as_bytes().into()),
        ];
        let mut public = named.to_vec();
        public.extend([
            Attribute::ModulusBits(2048.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ]);
        let mut private = named.to_vec();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
        ]);
        let session = raw.open_rw_session(slot).unwrap();
        session
            .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
            .unwrap();

        let session = token.session().unwrap();
        let key = session
            .locate(&"pkcs11:object=loose".parse().unwrap())
            .unwrap();
        let faults = session.gate(&key).unwrap().unwrap_err();
        let text: Vec<_> = faults.iter().map(ToString::to_string).collect();
        let text = text.join("\n");
        for problem in [
            "CKA_SENSITIVE is false",
            "CKA_EXTRACTABLE is true",
            "let the private key out (read CKA_PRIVATE_EXPONENT)",
            "let the private key out (read CKA_PRIME_1)",
            "let the private key out (wrap with",
        ] {
            assert!(text.contains(problem), "{problem:?} in {text}");
        }
        // The tries did not hurt the session.
        session.sign(&key, Scheme::RsaPssSha256, b"m").unwrap();
    });
}

#[test]
fn after_login_the_pin_is_nowhere_in_memory() {
    alone("after_login_the_pin_is_nowhere_in_memory", || {
        // This program holds the PIN only in disguise, so that it does not find itself.
        let disguised = b"znqr-bs-ebg-guvegrra";
        let script = "umask 077; tr a-z n-za-m <disguised >deep; softhsm2-util --init-token --free --label deep --so-pin 31415926 --pin \"$(cat deep)\"";
        std::fs::write("disguised", disguised).unwrap();
        let made = std::process::Command::new("sh")
            .args(["-c", script])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let module = module();
        let token = module.token(&"pkcs11:token=deep".parse().unwrap()).unwrap();
        let source: PinSource = "file:deep".parse().unwrap();
        let read = UserPin::read(source.open().unwrap(), source.kind("deep")).unwrap();
        assert_eq!(occurrences(disguised), 0, "in a page that nobody reads");
        let mut control = std::fs::read("deep").unwrap();
        assert_eq!(occurrences(disguised), 1, "the search finds");
        zeroize::Zeroize::zeroize(&mut control);
        token.login(read).unwrap();
        assert_eq!(occurrences(disguised), 0, "not wiped");
        token.session().unwrap().keys().unwrap();
        assert_eq!(occurrences(disguised), 0, "not wiped");
    });
}

/// How often the bytes behind the disguise (ROT13) stand in this process's writable memory.
fn occurrences(disguised: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let mut page = [0; 4096 + 16];
        let mut at = number(start);
        while at < number(end) {
            let read = memory.read_at(&mut page, at).unwrap_or(0);
            for window in page[..read].windows(disguised.len()) {
                found += usize::from(
                    window
                        .iter()
                        .zip(disguised)
                        .all(|(byte, hidden)| rot13(*byte) == *hidden),
                );
            }
            at += 4096;
        }
        page.fill(0);
    }
    found
}

fn rot13(byte: u8) -> u8 {
    match byte {
        b'a'..=b'm' => byte + 13,
        b'n'..=b'z' => byte - 13,
        other => other,
    }
}
