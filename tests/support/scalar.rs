//! The private keys of a SoftHSM token, taken out of its files with the PIN: what nobody may find
//! anywhere else. The product's own gate and keygen stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::digest;

const CLASS: u64 = 0x00;
const VALUE: u64 = 0x11;
const PRIVATE_KEY: &[u8] = &3_u64.to_be_bytes();
/// SoftHSM's own: the token's key, encrypted with a key from the user PIN.
const USER_PIN_BLOB: u64 = 0x8000_534d;

/// The scalars of all EC private keys in `tokens`, the folder of one SoftHSM token.
pub fn scalars(tokens: &Path, pin: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(tokens).expect("SoftHSM's folder");
    let mut folders = entries.map(|entry| entry.expect("an entry").path());
    let folder = folders.find(|path| path.is_dir()).expect("a token");
    let token = attributes(&folder.join("token.object"));
    let key = token_key(&token[&USER_PIN_BLOB], pin.as_bytes());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the token's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if !name.ends_with(".object") || name == "token.object" {
            continue;
        }
        let object = attributes(&path);
        if object.get(&CLASS).is_some_and(|class| class == PRIVATE_KEY) {
            let (iv, value) = object[&VALUE].split_at(16);
            found.push(decrypt(&key, iv, value));
        }
    }
    found
}

/// SoftHSM's PBE: SHA-256 over salt and PIN, then over itself, as often as the salt's end says.
fn token_key(blob: &[u8], pin: &[u8]) -> Vec<u8> {
    let (salt, rest) = blob.split_at(8);
    let (iv, encrypted) = rest.split_at(16);
    let sha256 = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
    let mut key = sha256(&[salt, pin].concat());
    for _ in 1..1500 + u32::from(salt[7]) {
        key = sha256(&key);
    }
    let opened = decrypt(&key, iv, encrypted);
    opened
        .strip_prefix(b"RJR")
        .expect("SoftHSM's mark: the PIN is right")
        .to_vec()
}

fn decrypt(key: &[u8], iv: &[u8], bytes: &[u8]) -> Vec<u8> {
    let key = UnboundCipherKey::new(&AES_256, key).expect("32 bytes");
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).expect("a key");
    let iv = DecryptionContext::Iv128(iv.try_into().expect("16 bytes"));
    let mut bytes = bytes.to_vec();
    key.decrypt(&mut bytes, iv).expect("well padded").to_vec()
}

/// The attributes in one of SoftHSM's object files: generation, then type, kind and value of each.
fn attributes(file: &Path) -> BTreeMap<u64, Vec<u8>> {
    let bytes = fs::read(file).expect("an object file");
    let mut rest = &bytes[8..];
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length)?;
        rest = left;
        Some(taken)
    };
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight"));
    let mut found = BTreeMap::new();
    while let Some(kind) = take(8).map(number) {
        let mut next = || number(take(8).expect("eight bytes"));
        let (form, unit) = (next(), kind);
        let value = match form {
            1 => take(1),
            2 => take(8),
            3 => {
                let length = usize::try_from(next()).expect("small");
                take(length)
            }
            // Mechanisms; templates, which have none here.
            4 | 5 => {
                let count = usize::try_from(next()).expect("small");
                assert!(form == 5 || count == 0, "a template: {}", file.display());
                take(count * 8)
            }
            form => panic!("{}: an attribute of form {form}", file.display()),
        };
        found.insert(unit, value.expect("all of it").to_vec());
    }
    found
}
