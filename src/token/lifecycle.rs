//! Making a token and destroying a key: the two things that cannot be undone.

use std::time::Duration;

use cryptoki::context::Function;
use cryptoki::error::{Error, Rv, RvError};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::Session as Raw;
use cryptoki::slot::Slot;
use fastness_secret_page::User;

use super::error::{LoginRefusal, ReturnCode, TokenError};
use super::info::TokenInfo;
use super::locate;
use super::module::{Access, Loaded, Module};
use super::session::Token;
use super::turn::Turn;
use super::uri::{KeyUri, TokenLabel, TokenUri};
use crate::secret::{SoPin, UserPin};

const INITIALISING: &str = "initialising the token";
const DESTROYING: &str = "destroying the key";

/// How long a freshly initialised token may need to show up.
const SHOWS_UP: Duration = Duration::from_millis(500);

/// What was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Destroyed {
    /// Label and id of the private key.
    pub key: String,
    /// How many public keys went with it.
    pub public_keys: usize,
    /// How many certificates went with it.
    pub certificates: usize,
}

impl Token {
    /// Initialises a free token of `module` (C_InitToken on a slot whose token is not initialised;
    /// SoftHSM keeps one at hand) and sets the user PIN. `serial` chooses among several. One program of
    /// this machine does so at a time.
    ///
    /// # Errors
    /// [`TokenError::CannotInitialise`] when a token has this label already or none is free;
    /// initialised tokens are never overwritten.
    pub fn init(
        module: &Module,
        label: &TokenLabel,
        serial: Option<&str>,
        so_pin: SoPin,
        user_pin: UserPin,
    ) -> Result<Self, TokenError> {
        let (so, user) = (so_pin.expose_for_login(), user_pin.expose_for_login());
        let loaded = &module.loaded;
        let _turn = Turn::take(module)?;
        // What others have made since the module was loaded is not there for it yet.
        loaded.restart()?;
        let slot = free_slot(loaded, label, serial)?;
        check_lengths(loaded, slot, [("SO PIN", so), ("user PIN", user)])?;
        let code = loaded.pin_calls.init_token(slot.id(), so, label.padded());
        Rv::from(code)
            .into_result(Function::InitToken)
            .map_err(|error| blame(label, error))?;
        set_user_pin(loaded, slot, so, user).map_err(|error| TokenError::Partly {
            done: format!("token \"{label}\" is initialised, but has no user PIN yet"),
            cause: Box::new(blame(label, error)),
        })?;
        let wanted = made(loaded, slot, label)?;
        // The slot may have another number now.
        loaded.restart()?;
        let shown = std::time::Instant::now();
        loop {
            match module.token(&wanted) {
                Err(TokenError::TokenMissing { .. }) if shown.elapsed() < SHOWS_UP => {}
                other => return other,
            }
        }
    }

    /// Destroys the one private key that `key` names, then the public keys and certificates with
    /// the same CKA_ID. The token must be logged in.
    ///
    /// # Errors
    /// [`TokenError::KeyMissing`] or [`TokenError::KeyDoubled`], and nothing is destroyed;
    /// [`TokenError::Partly`] when the private key is gone but something of it is left.
    pub fn destroy(&self, key: &KeyUri) -> Result<Destroyed, TokenError> {
        let session = self.open(Access::ReadWrite)?;
        let wanted = session.within(key)?;
        let found = session.guard(|raw| {
            let found = locate::exactly_one(raw, &wanted)?;
            raw.destroy_object(found.handle)
                .map_err(TokenError::call(DESTROYING))?;
            Ok(found)
        })?;
        let mut done = Destroyed {
            key: found.name(),
            public_keys: 0,
            certificates: 0,
        };
        match session.guard(|raw| destroy_public(raw, &found.id, &mut done)) {
            Ok(()) => Ok(done),
            Err(cause) => Err(TokenError::Partly {
                done: format!(
                    "the private key {} is destroyed, but not all of its public objects",
                    done.key
                ),
                cause: Box::new(cause),
            }),
        }
    }
}

/// Destroys the public objects with this id, unless another private key has it too. Without an id
/// nothing says what belongs together.
fn destroy_public(raw: &Raw, id: &[u8], done: &mut Destroyed) -> Result<(), TokenError> {
    let of = |class| {
        [
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Id(id.to_vec()),
        ]
    };
    if id.is_empty() || !locate::find(raw, &of(ObjectClass::PRIVATE_KEY))?.is_empty() {
        return Ok(());
    }
    for (class, count) in [
        (ObjectClass::PUBLIC_KEY, &mut done.public_keys),
        (ObjectClass::CERTIFICATE, &mut done.certificates),
    ] {
        for object in locate::find(raw, &of(class))? {
            raw.destroy_object(object)
                .map_err(TokenError::call(DESTROYING))?;
            *count += 1;
        }
    }
    Ok(())
}

fn free_slot(
    loaded: &Loaded,
    label: &TokenLabel,
    serial: Option<&str>,
) -> Result<Slot, TokenError> {
    let tokens = loaded.tokens()?;
    let cannot = |problem: String| Err(TokenError::CannotInitialise(problem));
    if let Some((_, there)) = tokens.iter().find(|(_, info)| info.label == label.as_str()) {
        return cannot(format!(
            "a token of this label exists already: {}. Choose another label; initialised tokens are never overwritten",
            there.name()
        ));
    }
    let is_free =
        |info: &TokenInfo| !info.initialised && serial.is_none_or(|serial| serial == info.serial);
    let free: Vec<_> = tokens.iter().filter(|(_, info)| is_free(info)).collect();
    match free[..] {
        [(slot, _)] => Ok(*slot),
        [] => cannot(
            "the module has no token that is not initialised yet; clear one with the vendor's tool"
                .into(),
        ),
        _ => cannot(format!(
            "{} tokens are not initialised; choose one by its serial number: {}",
            free.len(),
            free.iter()
                .map(|(_, info)| info.serial.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

/// The name of the token that was just made in `slot`, with its serial number: another machine may have made
/// one of the same label.
fn made(loaded: &Loaded, slot: Slot, label: &TokenLabel) -> Result<TokenUri, TokenError> {
    let info = loaded
        .pkcs11
        .get_token_info(slot)
        .map_err(TokenError::call(INITIALISING))?;
    let name = TokenInfo::of(&info).uri();
    Ok(name.unwrap_or_else(|| TokenUri::by_label(label)))
}

/// Before C_InitToken, so that no half-made token is left behind.
fn check_lengths(loaded: &Loaded, slot: Slot, pins: [(&str, &[u8]); 2]) -> Result<(), TokenError> {
    let info = loaded
        .pkcs11
        .get_token_info(slot)
        .map_err(TokenError::call(INITIALISING))?;
    let (shortest, longest) = (info.min_pin_length(), info.max_pin_length());
    for (name, pin) in pins {
        let length = pin.len();
        // Some modules report 0 for "no bound".
        if length < shortest || (longest != 0 && length > longest) {
            return Err(TokenError::CannotInitialise(format!(
                "the {name} must have {shortest} to {longest} bytes for this token"
            )));
        }
    }
    Ok(())
}

fn set_user_pin(loaded: &Loaded, slot: Slot, so_pin: &[u8], user_pin: &[u8]) -> Result<(), Error> {
    let session = loaded.pkcs11.open_rw_session(slot)?;
    let calls = &loaded.pin_calls;
    Rv::from(calls.log_in(session.handle(), User::So, so_pin)).into_result(Function::Login)?;
    Rv::from(calls.init_pin(session.handle(), user_pin)).into_result(Function::InitPIN)?;
    session.logout()
}

fn blame(label: &TokenLabel, error: Error) -> TokenError {
    let refusal = match error {
        Error::Pkcs11(RvError::PinIncorrect, _) => LoginRefusal::WrongPin,
        Error::Pkcs11(RvError::PinLocked, _) => LoginRefusal::Locked,
        Error::Pkcs11(
            code @ (RvError::PinInvalid | RvError::PinLenRange | RvError::PinTooWeak),
            _,
        ) => LoginRefusal::ImpossiblePin(ReturnCode(code).to_string()),
        other => return TokenError::call(INITIALISING)(other),
    };
    TokenError::Login {
        token: label.to_string(),
        refusal,
    }
}
