//! No bytes make the certificate reader panic.
#![no_main]

use fastness::policy::EndEntity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = EndEntity::read(bytes);
});
