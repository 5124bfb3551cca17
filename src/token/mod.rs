//! PKCS#11: module, locating keys by RFC 7512 URI, key gate, mechanisms, sessions. The only user of
//! cryptoki.

mod attribute;
mod error;
mod gate;
mod generate;
pub mod heal;
mod info;
mod key;
mod key_label;
mod lifecycle;
mod locate;
mod mechanism;
mod module;
mod scheme;
mod session;
mod spki;
mod turn;
pub mod uri;
mod verify;

pub use error::{LoginRefusal, ModuleFault, ReturnCode, TokenError};
pub use gate::{KeyEvidence, Trial};
pub use generate::{Generated, KeySpec};
pub use info::{PinState, TokenInfo};
pub use key::{Key, TokenKey};
pub use key_label::{KeyLabel, KeyLabelError};
pub use lifecycle::Destroyed;
pub use module::Module;
pub use scheme::{KeyKind, Scheme};
pub use session::{Session, Token};
pub use uri::{KeyId, KeyUri, TokenLabel, TokenUri};
pub use verify::{WrongSignature, verify};
