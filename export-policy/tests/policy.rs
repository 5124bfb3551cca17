//! Keys made for this in the system's software provider, in memory alone.
#![cfg(windows)]

use std::ptr;

use fastness_export_policy::export_policy;
use rustls_cng::key::NCryptKey;
use windows_sys::Win32::Security::Cryptography::{
    MS_KEY_STORAGE_PROVIDER, NCRYPT_ALLOW_EXPORT_FLAG, NCRYPT_ALLOW_PLAINTEXT_EXPORT_FLAG,
    NCRYPT_EXPORT_POLICY_PROPERTY, NCRYPT_RSA_ALGORITHM, NCryptCreatePersistedKey,
    NCryptFinalizeKey, NCryptOpenStorageProvider, NCryptSetProperty,
};

fn key_with(policy: u32) -> NCryptKey {
    let (mut provider, mut key) = (0, 0);
    // SAFETY: the name is a constant that ends in a zero; the result is written to live memory.
    let status = unsafe { NCryptOpenStorageProvider(&mut provider, MS_KEY_STORAGE_PROVIDER, 0) };
    assert_eq!(status, 0);
    let unnamed = ptr::null();
    // SAFETY: as above; a key without a name is not stored.
    let status = unsafe {
        NCryptCreatePersistedKey(provider, &mut key, NCRYPT_RSA_ALGORITHM, unnamed, 0, 0)
    };
    assert_eq!(status, 0);
    let bytes = policy.to_ne_bytes();
    // SAFETY: the key is open, and the pointer leads to the four bytes that are announced.
    let status =
        unsafe { NCryptSetProperty(key, NCRYPT_EXPORT_POLICY_PROPERTY, bytes.as_ptr(), 4, 0) };
    assert_eq!(status, 0);
    // SAFETY: the key is open and not yet finished.
    assert_eq!(unsafe { NCryptFinalizeKey(key, 0) }, 0);
    NCryptKey::new_owned(key)
}

#[test]
fn a_key_that_cannot_be_exported_says_so() {
    assert_eq!(export_policy(&key_with(0)).expect("a policy"), 0);
}

#[test]
fn a_key_that_can_be_exported_says_how() {
    for policy in [
        NCRYPT_ALLOW_EXPORT_FLAG,
        NCRYPT_ALLOW_EXPORT_FLAG | NCRYPT_ALLOW_PLAINTEXT_EXPORT_FLAG,
    ] {
        assert_eq!(export_policy(&key_with(policy)).expect("a policy"), policy);
    }
}
