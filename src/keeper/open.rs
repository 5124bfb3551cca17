//! Opening a vault: module, token, login, and everything a key must show before it is used.

use super::purpose;
use super::vault::Vault;
use crate::control::{FromKeeper, KeeperReady, KeeperSetup, KeyReady, KeySetup, Retry};
use crate::fault::{Fault, Passing};
use crate::role::TlsRole;
use crate::sandbox::Maker;
use crate::secret::UserPin;
use crate::token::heal::{self, Action, Doing};
use crate::token::{self, Key, KeyKind, KeyUri, Module, Scheme, Session, TokenError, TokenUri};

/// One key that passed: its address and what it is for.
pub(super) struct Purpose {
    pub(super) role: TlsRole,
    pub(super) uri: KeyUri,
    pub(super) kind: KeyKind,
    /// SubjectPublicKeyInfo of its certificate, DER.
    pub(super) spki: Vec<u8>,
}

/// Why a vault did not open.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) faults: Vec<Fault>,
    pub(super) retry: Retry,
}

/// A refusal was told to whoever waits for it.
pub(super) struct Said;

/// Sessions of a token that says how many it has which are not for signatures: the one that holds the
/// login and the health probe's. Where there are fewer, they share: a token with two sessions signs and
/// probes in one, a token with one does everything in it.
const RESERVE: u64 = 2;

/// Loads the module, logs in with `pin` and checks every key of `setup`. A refusal is told with `say`
/// while all that was opened still is: nothing is asked of the module between the one and the other. How far the
/// login is goes to `tell`.
pub(super) fn open(
    setup: &KeeperSetup,
    pin: UserPin,
    tell: &dyn Fn(&FromKeeper),
    say: &dyn Fn(Refused) -> Said,
) -> Result<(Vault, KeeperReady), Said> {
    let about = |error: &TokenError| format!("{}.{}", setup.place, key_of(error));
    let uri: TokenUri = setup.token.parse().map_err(|error| {
        let key = format!("{}.uri", setup.place);
        say(Refused::of(Fault::new(
            key,
            format!("{error}"),
            "mend the URI",
        )))
    })?;
    let refuse = |error| say(Refused::because(about(&error), &error));
    let module = Module::load(&setup.module).map_err(refuse)?;
    let token = module.token(&uri).map_err(refuse)?;
    tell(&FromKeeper::LoggingIn);
    // SoftHSM locks no PIN: its first start may try one whatever is on record. Of a module in between that is
    // not known.
    let is_safe = !setup.trusted && Maker::of(&token.info().manufacturer) == Maker::SoftHsm;
    let login = if setup.attended || is_safe {
        token.login(pin)
    } else {
        token.login_by_itself(pin)
    };
    login.map_err(|error| {
        let unclear = !token.info().never_locks() && may_mean_a_wrong_pin(&error);
        match unclear {
            true => say(Refused::unclear(about(&error), &error, setup.trusted)),
            false => refuse(error),
        }
    })?;
    tell(&FromKeeper::LoggedIn);

    let session = token.session_or_the_login_s().map_err(|error| {
        let key = format!("{}.sessions", setup.place);
        let mend = "free sessions of this token, or lower `sessions`";
        let fault = about_token(Fault::new(key, error.to_string(), mend), &error);
        say(Refused {
            retry: retry_after(&error),
            ..Refused::of(fault)
        })
    })?;
    let mut refused = Refused::default();
    let (mut purposes, mut keys, mut ready) = (Vec::new(), Vec::new(), Vec::new());
    for key in &setup.keys {
        match check_key(&session, key) {
            Ok((purpose, key, found)) => {
                purposes.push(purpose);
                keys.push(key);
                ready.push(found);
            }
            Err(found) => {
                refused.retry = refused.retry.max(found.retry);
                refused.faults.extend(found.faults);
            }
        }
    }
    if !refused.faults.is_empty() {
        return Err(say(refused));
    }
    let info = token.info().clone();
    let wanted = wanted_sessions(setup.sessions, info.max_sessions);
    let vault = Vault::new(token, session, (purposes, keys), wanted);
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

/// What was configured, or fewer where the token has fewer.
fn wanted_sessions(configured: usize, most: Option<u64>) -> usize {
    let spare = most.map_or(u64::MAX, |most| most.saturating_sub(RESERVE).max(1));
    let spare = usize::try_from(spare).unwrap_or(usize::MAX);
    if let Some(most) = most
        && spare > configured
    {
        tracing::info!(
            sessions = configured,
            most,
            "the token has more sessions than are used: more `sessions` sign more at once"
        );
    }
    configured.min(spare)
}

impl Refused {
    fn of(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
            retry: Retry::Freely,
        }
    }

    /// C_Login answered in words that may mean a wrong PIN; `trusted`: one that the token took before.
    fn unclear(key: String, error: &TokenError, trusted: bool) -> Self {
        let fault = Fault::new(
            key,
            format!("{error}: whether that counts as a wrong PIN is not known"),
            "see the token's own log and count of tries, then `fastness unlock`",
        );
        Self {
            retry: match trusted {
                true => Retry::Once,
                false => Retry::Never,
            },
            ..Self::of(fault)
        }
    }

    /// With the error's own advice.
    fn because(key: String, error: &TokenError) -> Self {
        Self {
            retry: retry_after(error),
            ..Self::of(about_token(
                Fault::new(key, error.to_string(), error.mend()),
                error,
            ))
        }
    }
}

fn about_token(fault: Fault, error: &TokenError) -> Fault {
    match heal::may_pass(error) {
        true => fault.that_may_pass(Passing::Token),
        false => fault,
    }
}

fn retry_after(error: &TokenError) -> Retry {
    match heal::after(error, Doing::Starting) {
        Action::Latch => Retry::Never,
        _ => Retry::Freely,
    }
}

/// Whether C_Login has answered in words of which some modules have no others for a wrong PIN.
fn may_mean_a_wrong_pin(error: &TokenError) -> bool {
    heal::is_of_login(error) && heal::after(error, Doing::FirstLogin) == Action::Latch
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
fn check_key(session: &Session, setup: &KeySetup) -> Result<(Purpose, Key, KeyReady), Refused> {
    let uri: KeyUri = setup.uri.parse().map_err(|error| {
        Refused::of(Fault::new(
            &*setup.place,
            format!("{error}"),
            "mend the URI",
        ))
    })?;
    let key = session
        .locate(&uri)
        .map_err(|error| Refused::because(setup.place.clone(), &error))?;
    if key.spki_der() != setup.spki {
        let why = "they have different public keys";
        return Err(Refused::of(other_key(setup, why)));
    }
    let unchecked = |error| Refused {
        retry: retry_after(&error),
        ..Refused::of(about_token(cannot_check(setup, &error), &error))
    };
    let refused = |faults: Vec<Fault>| Refused {
        faults: faults
            .into_iter()
            .map(|fault| Fault {
                key: setup.place.clone(),
                ..fault
            })
            .collect(),
        retry: Retry::Freely,
    };
    let evidence = session.gate(&key).map_err(unchecked)?.map_err(refused)?;
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system's random numbers never fail after boot");
    let probe = purpose::probe(setup.role, nonce);
    for scheme in key.kind().schemes() {
        let signature = session
            .sign(&key, *scheme, &probe)
            .map_err(|error| Refused {
                retry: retry_after(&error),
                ..Refused::of(cannot_sign(setup, *scheme, &error))
            })?;
        if let Err(error) = token::verify(&setup.spki, *scheme, &probe, &signature) {
            return Err(Refused::of(other_key(setup, &error.to_string())));
        }
    }
    let ready = KeyReady {
        kind: key.kind(),
        spki: key.spki_der().to_vec(),
        evidence,
    };
    let purpose = Purpose {
        role: setup.role,
        uri,
        kind: key.kind(),
        spki: setup.spki.clone(),
    };
    Ok((purpose, key, ready))
}

fn cannot_check(setup: &KeySetup, error: &TokenError) -> Fault {
    Fault::new(
        &*setup.place,
        format!("the token failed while the key was being checked: {error}"),
        "see the token's own log; a key that cannot be checked is not used",
    )
}

fn cannot_sign(setup: &KeySetup, scheme: Scheme, error: &TokenError) -> Fault {
    let fault = Fault::new(
        &*setup.place,
        format!("the token does not sign with this key as TLS 1.3 needs it ({scheme}): {error}"),
        "allow the key and the token this mechanism, or make a key of another kind: `fastness token keygen`",
    );
    match heal::has_row(error) {
        true => about_token(fault, error),
        // This mechanism, not the token.
        false => fault,
    }
}

fn other_key(setup: &KeySetup, why: &str) -> Fault {
    Fault::new(
        &*setup.place,
        format!("the key does not belong to its certificate: {why}"),
        "name the key whose request the certificate was issued for: compare `fastness spki-pin` of both",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_may_mean_a_wrong_pin_leave_one_more_try_to_a_pin_that_was_taken_before() {
        for (trusted, retry) in [(true, Retry::Once), (false, Retry::Never)] {
            let refused = Refused::unclear("pin".into(), &TokenError::SessionDead, trusted);
            assert_eq!(refused.retry, retry);
        }
    }
}
