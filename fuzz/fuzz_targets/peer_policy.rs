//! A peer policy is taken whole, or each fault has a line and a problem.
#![no_main]

use fastness::policy::PeerPolicy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(faults) = PeerPolicy::parse(text) {
        assert!(!faults.is_empty());
        assert!(faults.iter().all(|fault| !fault.problem.is_empty()));
    }
});
