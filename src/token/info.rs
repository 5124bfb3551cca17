//! What a token says about itself.

use cryptoki::slot::Limit;
use serde::Serialize;

use super::error::LoginRefusal;
use super::uri::TokenUri;

/// What a token says about itself (PKCS#11 v3.1 §3.2, CK_TOKEN_INFO).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Its label, without padding. Empty when it is not initialised.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// Firmware version, `2.6`.
    pub firmware: String,
    /// Whether it was initialised (CKF_TOKEN_INITIALIZED).
    pub initialised: bool,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether the PIN is typed on the token itself (CKF_PROTECTED_AUTHENTICATION_PATH).
    pub keypad: bool,
    /// How the user PIN stands.
    pub pin: PinState,
    /// How many sessions one application may have, when the token limits it.
    pub max_sessions: Option<u64>,
}

/// How a token's user PIN stands. Tokens may keep this to themselves and always say `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinState {
    /// Nothing stands against a login.
    Ready,
    /// A wrong PIN was tried since the last login (CKF_USER_PIN_COUNT_LOW).
    WrongTryRecorded,
    /// One more wrong PIN locks it (CKF_USER_PIN_FINAL_TRY).
    FinalTry,
    /// Locked (CKF_USER_PIN_LOCKED).
    Locked,
    /// It has expired or is a default that must be changed (CKF_USER_PIN_TO_BE_CHANGED).
    ToBeChanged,
    /// None was set yet.
    NotSet,
}

impl TokenInfo {
    pub(super) fn of(info: &cryptoki::slot::TokenInfo) -> Self {
        // Some modules pad with NUL instead of blanks.
        let text = |text: &str| text.trim_end_matches(['\0', ' ']).to_owned();
        Self {
            label: if info.token_initialized() {
                text(info.label())
            } else {
                String::new()
            },
            serial: text(info.serial_number()),
            manufacturer: text(info.manufacturer_id()),
            model: text(info.model()),
            firmware: info.firmware_version().to_string(),
            initialised: info.token_initialized(),
            writable: !info.write_protected(),
            keypad: info.protected_authentication_path(),
            pin: PinState::of(info),
            max_sessions: match info.max_session_count() {
                Limit::Max(count) => Some(count),
                Limit::Infinite | Limit::Unavailable => None,
            },
        }
    }

    /// The token's full name; `None` when it reports neither label nor serial number.
    pub fn uri(&self) -> Option<TokenUri> {
        TokenUri::of(&self.label, &self.serial, &self.manufacturer, &self.model).ok()
    }

    /// How messages call it.
    pub(super) fn name(&self) -> String {
        self.uri().map_or_else(
            || "(a token without a name)".to_owned(),
            |uri| uri.to_string(),
        )
    }

    pub(super) fn is(&self, wanted: &TokenUri) -> bool {
        wanted.fits(&self.label, &self.serial, &self.manufacturer, &self.model)
    }

    /// Whether this may be half of what the token will say in a moment: SoftHSM rewrites its token
    /// file at each login, and of several programs that start at once one may read it unfinished.
    pub(super) fn may_be_half_read(&self) -> bool {
        self.serial.is_empty() || (self.initialised && self.pin == PinState::NotSet)
    }

    /// Whether no number of wrong PINs locks it; known of SoftHSM alone.
    pub(crate) fn never_locks(&self) -> bool {
        self.manufacturer.contains("SoftHSM")
    }

    /// What stands against trying a PIN, known before one is tried.
    pub fn login_refusal(&self) -> Option<LoginRefusal> {
        if !self.initialised {
            return Some(LoginRefusal::NotInitialised);
        }
        if self.keypad {
            return Some(LoginRefusal::Keypad);
        }
        match self.pin {
            PinState::Ready | PinState::WrongTryRecorded => None,
            PinState::FinalTry => Some(LoginRefusal::FinalTry),
            PinState::Locked => Some(LoginRefusal::Locked),
            PinState::ToBeChanged => Some(LoginRefusal::Expired),
            PinState::NotSet => Some(LoginRefusal::NoPinSet),
        }
    }
}

impl PinState {
    /// Whether a wrong PIN was counted since the last login.
    pub(super) fn is_counting(self) -> bool {
        matches!(self, Self::WrongTryRecorded | Self::FinalTry | Self::Locked)
    }

    fn of(info: &cryptoki::slot::TokenInfo) -> Self {
        match () {
            () if !info.user_pin_initialized() => Self::NotSet,
            () if info.user_pin_locked() => Self::Locked,
            () if info.user_pin_final_try() => Self::FinalTry,
            () if info.user_pin_to_be_changed() => Self::ToBeChanged,
            () if info.user_pin_count_low() => Self::WrongTryRecorded,
            () => Self::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pin: PinState) -> TokenInfo {
        TokenInfo {
            label: "node".into(),
            serial: "1".into(),
            manufacturer: String::new(),
            model: String::new(),
            firmware: "1.0".into(),
            initialised: true,
            writable: true,
            keypad: false,
            pin,
            max_sessions: None,
        }
    }

    #[test]
    fn a_pin_that_one_more_try_could_lock_is_not_tried() {
        for (pin, refusal) in [
            (PinState::Ready, None),
            (PinState::WrongTryRecorded, None),
            (PinState::FinalTry, Some(LoginRefusal::FinalTry)),
            (PinState::Locked, Some(LoginRefusal::Locked)),
            (PinState::ToBeChanged, Some(LoginRefusal::Expired)),
            (PinState::NotSet, Some(LoginRefusal::NoPinSet)),
        ] {
            assert_eq!(info(pin).login_refusal(), refusal, "{pin:?}");
        }
    }

    #[test]
    fn a_token_with_a_keypad_or_without_initialisation_is_not_logged_in_to() {
        let keypad = TokenInfo {
            keypad: true,
            ..info(PinState::Ready)
        };
        assert_eq!(keypad.login_refusal(), Some(LoginRefusal::Keypad));
        let blank = TokenInfo {
            initialised: false,
            ..info(PinState::NotSet)
        };
        assert_eq!(blank.login_refusal(), Some(LoginRefusal::NotInitialised));
    }
}
