//! Whether a key in Windows' key storage may leave it: `NCRYPT_EXPORT_POLICY_PROPERTY` (Microsoft's
//! "Key Storage Property Identifiers"), read with one call that is unsafe.
#![cfg(windows)]

use std::io;
use std::ptr;

use rustls_cng::key::NCryptKey;
use windows_sys::Win32::Security::Cryptography::{
    NCRYPT_EXPORT_POLICY_PROPERTY, NCryptGetProperty,
};

/// The flags of ways in which `key` may be exported or archived; 0 when there is none.
///
/// # Errors
/// The provider's: it does not know the property, or not in this form.
pub fn export_policy(key: &NCryptKey) -> io::Result<u32> {
    let (mut flags, size, mut written) = ([0; 4], 4, 0);
    // SAFETY: `key` holds its handle open for the length of this borrow, the name is a constant that
    // ends in a zero, and both pointers lead to live memory of the sizes given.
    let status = unsafe {
        NCryptGetProperty(
            key.inner(),
            NCRYPT_EXPORT_POLICY_PROPERTY,
            flags.as_mut_ptr(),
            size,
            ptr::from_mut(&mut written),
            0,
        )
    };
    match (status, written) {
        (0, written) if written == size => Ok(u32::from_ne_bytes(flags)),
        (0, _) => Err(io::Error::other("the export policy is not of 32 bits")),
        (status, _) => Err(io::Error::from_raw_os_error(status)),
    }
}
