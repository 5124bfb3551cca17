//! Opening a vault: module, token, login, and everything a key must show before it is used.

use super::purpose;
use super::vault::Vault;
use crate::control::{KeeperReady, KeeperSetup, KeyReady, KeySetup};
use crate::fault::Fault;
use crate::role::TlsRole;
use crate::secret::UserPin;
use crate::token::{self, KeyKind, KeyUri, Module, Scheme, Session, Token, TokenError, TokenUri};

/// One key that passed: its address and what it is for.
pub(super) struct Purpose {
    pub(super) role: TlsRole,
    pub(super) uri: KeyUri,
    pub(super) kind: KeyKind,
    /// SubjectPublicKeyInfo of its certificate, DER.
    pub(super) spki: Vec<u8>,
}

/// Why a vault did not open.
pub(super) struct Refused {
    pub(super) faults: Vec<Fault>,
    /// Whether a further try by itself could lock the PIN.
    pub(super) latch: bool,
}

/// Sessions of a token that says how many it has which are not for signatures: the one that holds the
/// login and the health probe's. Where there are fewer, they share: a token with two sessions signs and
/// probes in one, a token with one does everything in it.
const RESERVE: u64 = 2;

/// Loads the module, logs in with `pin` and checks every key of `setup`.
pub(super) fn open(setup: &KeeperSetup, pin: UserPin) -> Result<(Vault, KeeperReady), Refused> {
    let token = log_in(setup, pin)?;
    let no_session = |error: TokenError| Refused {
        faults: vec![Fault::new(
            format!("{}.sessions", setup.place),
            error.to_string(),
            "free sessions of this token, or lower `sessions`",
        )],
        latch: false,
    };
    let session = token.session_or_the_login_s().map_err(no_session)?;
    let mut faults = Vec::new();
    let mut keys = Vec::new();
    let mut ready = Vec::new();
    for key in &setup.keys {
        match check_key(&session, key) {
            Ok((purpose, found)) => {
                keys.push(purpose);
                ready.push(found);
            }
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(Refused {
            faults,
            latch: false,
        });
    }
    let info = token.info().clone();
    let most = info
        .max_sessions
        .map_or(u64::MAX, |most| most.saturating_sub(RESERVE).max(1));
    let wanted = setup
        .sessions
        .min(usize::try_from(most).unwrap_or(usize::MAX));
    let vault = Vault::new(token, session, keys, wanted).map_err(no_session)?;
    let found = KeeperReady {
        label: info.label,
        serial: info.serial,
        manufacturer: info.manufacturer,
        model: info.model,
        sessions: vault.sessions(),
        keys: ready,
        sandbox: Default::default(),
    };
    Ok((vault, found))
}

fn log_in(setup: &KeeperSetup, pin: UserPin) -> Result<Token, Refused> {
    let refuse = |error: TokenError| Refused {
        latch: error.is_pin_verdict(),
        faults: vec![Fault::new(
            format!("{}.{}", setup.place, key_of(&error)),
            error.to_string(),
            error.mend(),
        )],
    };
    let uri: TokenUri = setup.token.parse().map_err(|error| Refused {
        faults: vec![Fault::new(
            format!("{}.uri", setup.place),
            format!("{error}"),
            "mend the URI",
        )],
        latch: false,
    })?;
    let module = Module::load(&setup.module).map_err(refuse)?;
    let token = module.token(&uri).map_err(refuse)?;
    let login = if setup.attended {
        token.login(pin)
    } else {
        token.login_by_itself(pin)
    };
    if let Err(error) = login {
        // A module that hangs in C_Finalize must not keep the verdict from the supervisor, which would try
        // a refused PIN again. This process ends at once.
        std::mem::forget(token);
        return Err(refuse(error));
    }
    Ok(token)
}

/// The key of a `[[token]]` that an error before the keys is about.
fn key_of(error: &TokenError) -> &'static str {
    match error {
        TokenError::Module { .. } => "module",
        TokenError::Login { .. } => "pin",
        _ => "uri",
    }
}

/// One object, not readable, matching its certificate, and able to sign with each of its schemes.
fn check_key(session: &Session, setup: &KeySetup) -> Result<(Purpose, KeyReady), Vec<Fault>> {
    let one = |error: TokenError| vec![Fault::new(&*setup.place, error.to_string(), error.mend())];
    let uri: KeyUri = setup.uri.parse().map_err(|error| {
        vec![Fault::new(
            &*setup.place,
            format!("{error}"),
            "mend the URI",
        )]
    })?;
    let key = session.locate(&uri).map_err(one)?;
    if key.spki_der() != setup.spki {
        return Err(vec![other_key(setup, "they have different public keys")]);
    }
    let evidence = session.gate(&key).map_err(|faults| {
        faults
            .into_iter()
            .map(|fault| Fault {
                key: setup.place.clone(),
                ..fault
            })
            .collect::<Vec<_>>()
    })?;
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system's random numbers never fail after boot");
    let probe = purpose::probe(setup.role, nonce);
    for scheme in key.kind().schemes() {
        let signature = session
            .sign(&key, *scheme, &probe)
            .map_err(|error| vec![cannot_sign(setup, *scheme, &error)])?;
        if let Err(error) = token::verify(&setup.spki, *scheme, &probe, &signature) {
            return Err(vec![other_key(setup, &error.to_string())]);
        }
    }
    let ready = KeyReady {
        kind: key.kind(),
        spki: key.spki_der().to_vec(),
        evidence,
    };
    Ok((
        Purpose {
            role: setup.role,
            uri,
            kind: key.kind(),
            spki: setup.spki.clone(),
        },
        ready,
    ))
}

fn cannot_sign(setup: &KeySetup, scheme: Scheme, error: &TokenError) -> Fault {
    Fault::new(
        &*setup.place,
        format!("the token does not sign with this key as TLS 1.3 needs it ({scheme}): {error}"),
        "allow the key and the token this mechanism, or make a key of another kind: `fastness token keygen`",
    )
}

fn other_key(setup: &KeySetup, why: &str) -> Fault {
    Fault::new(
        &*setup.place,
        format!("the key does not belong to its certificate: {why}"),
        "name the key whose request the certificate was issued for: compare `fastness spki-pin` of both",
    )
}
