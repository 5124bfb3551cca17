//! `[token.environment]`: all that a module sees of the environment, and its keeper before it.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Reader;
use crate::fault::Fault;

/// What makes the loader or the C library load code, read tables or write files of somebody's choice. Those of
/// ld.so(8), "Secure-execution mode", and of the resolver; `LD_` stands for many.
const OF_THE_LOADER: [&str; 11] = [
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
];

impl Reader<'_> {
    pub(super) fn environment(
        &mut self,
        variables: BTreeMap<String, Spanned<String>>,
        place: &str,
    ) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (name, value) in variables {
            if let Some(fault) = fault_of(&name, value.get_ref(), place) {
                self.fault(&value, fault);
            }
            let value = value.into_inner();
            // A module's settings file may stand beside the configuration.
            let path = self.folder.join(&value);
            let is_file = !value.is_empty() && path.exists();
            let value = if is_file {
                path.display().to_string()
            } else {
                value
            };
            found.insert(name, value);
        }
        found
    }
}

fn fault_of(name: &str, value: &str, place: &str) -> Option<Fault> {
    if name.is_empty() || name.contains(['=', '\0']) {
        let mend =
            "write NAME = \"value\", the name without `=`, as in SOFTHSM2_CONF = \"softhsm2.conf\"";
        return Some(Fault::new(
            place,
            "has a name that no variable can have",
            mend,
        ));
    }
    let key = format!("{place}.{name}");
    if value.contains('\0') {
        return Some(Fault::new(key, "has a NUL in it", "take it out"));
    }
    let refused = name.starts_with("LD_") || OF_THE_LOADER.contains(&name);
    refused.then(|| {
        Fault::new(
            key,
            "is for the loader or the C library, which go by it before the keeper is confined",
            "take it out; a module's libraries are found through ld.so.conf(5) or its own RUNPATH",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_for_the_module_is_taken() {
        let key = |name: &str| fault_of(name, "x", "token[0].environment").map(|fault| fault.key);
        for name in [
            "SOFTHSM2_CONF",
            "ChrystokiConfigurationPath",
            "TMPDIR",
            "HOME",
        ] {
            assert_eq!(key(name), None, "{name}");
        }
        for name in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "LD_LIBRARY_PATH",
            "GCONV_PATH",
            "GLIBC_TUNABLES",
        ] {
            assert_eq!(key(name), Some(format!("token[0].environment.{name}")));
        }
        for name in ["", "A=B", "A\0"] {
            assert_eq!(key(name).as_deref(), Some("token[0].environment"));
        }
        assert!(fault_of("A", "x\0", "token[0].environment").is_some());
    }
}
