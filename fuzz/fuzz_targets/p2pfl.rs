//! No request of a peer makes the reader of P2PFL's messages panic, however it is cut: the first byte says
//! how.
#![no_main]

use fastness::p2pfl::{Method, Reader};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((cut, rest)) = bytes.split_first() else {
        return;
    };
    for method in [Method::Handshake, Method::Send] {
        let mut reader = Reader::new(method, 1 << 20);
        for piece in rest.chunks(usize::from(*cut).max(1)) {
            if reader.take(piece).is_err() {
                break;
            }
        }
        let _ = reader.end();
    }
});
