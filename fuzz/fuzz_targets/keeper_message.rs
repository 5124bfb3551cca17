//! A packet to or from a keeper is refused or encoded back to the byte; what may be signed for one role
//! may not be signed for the other.
#![no_main]

use fastness::keeper::message::{MAX_REPLY, MAX_REQUEST, Reply, Request};
use fastness::keeper::purpose::certificate_verify;
use fastness::role::TlsRole;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Ok(request) = Request::decode(packet) {
        let mut again = [0; MAX_REQUEST];
        let length = request
            .encode(&mut again)
            .expect("it was short enough to read");
        assert_eq!(&again[..length], packet);
        let server = certificate_verify(TlsRole::Server, request.input).is_some();
        let client = certificate_verify(TlsRole::Client, request.input).is_some();
        assert!(!(server && client));
    }
    if let Ok(reply) = Reply::decode(packet) {
        let mut again = [0; MAX_REPLY];
        let length = reply
            .encode(&mut again)
            .expect("it was short enough to read");
        assert_eq!(&again[..length], packet);
    }
});
