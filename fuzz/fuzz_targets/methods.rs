//! A list of one pattern allows that path, or what is beneath it, in one spelling.
#![no_main]

use fastness::policy::{MethodPattern, Methods};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let (pattern, path) = texts;
    let Ok(read) = pattern.parse::<MethodPattern>() else {
        return;
    };
    let methods = Methods::listed(vec![read]);
    if methods.decide(path).is_ok() {
        let above = pattern.strip_suffix("/*");
        let beneath = above.is_some_and(|above| {
            path.strip_prefix(above)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        assert!(path == pattern && above.is_none() || beneath);
        assert!(!path.contains(['%', '\\', ';', '?', '#', '*']) && !path.contains("//"));
    }
});
