//! A PKCS#11 URI is refused or written back the same; a PIN in it is never accepted.
#![no_main]

use fastness::token::{KeyUri, TokenUri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(uri) = text.parse::<TokenUri>() {
        assert_eq!(uri.to_string().parse().ok(), Some(uri));
        assert!(!text.contains("pin-value="));
    }
    if let Ok(uri) = text.parse::<KeyUri>() {
        assert_eq!(uri.to_string().parse().ok(), Some(uri));
        assert!(!text.contains("pin-value="));
    }
});
