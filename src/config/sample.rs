//! `policies/node.toml` says that it has every key: held against what the reader knows.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::application::ApplicationSpec;
use super::limits::{Limits, LimitsSpec};
use super::spec::{KeySpec, LogSpec, SandboxSpec, Spec, TokenSpec};

const SAMPLE: &str = include_str!("../../policies/node.toml");

/// Ends whatever is deserialized from it at once, with the keys that were asked for.
struct Asked;

#[derive(Debug)]
struct Keys(&'static [&'static str]);

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked for {:?}", self.0)
    }
}

impl std::error::Error for Keys {}

impl de::Error for Keys {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Keys;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Keys> {
        Err(Keys(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Keys> {
        Err(Keys(keys))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn keys_of<'de, T: Deserialize<'de> + fmt::Debug>() -> &'static [&'static str] {
    T::deserialize(Asked)
        .expect_err("it is never given anything")
        .0
}

/// `section.key` of every line that sets a key or begins a section, commented out or not.
fn stated() -> Vec<String> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in SAMPLE.lines().map(|line| line.trim_start_matches("# ")) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
            found.push(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ") {
            found.push(
                format!("{section}.{key}")
                    .trim_start_matches('.')
                    .to_owned(),
            );
        }
    }
    found
}

#[test]
fn the_sample_has_every_key() {
    let stated = stated();
    for (section, keys) in [
        ("", keys_of::<Spec>()),
        ("application.", keys_of::<ApplicationSpec>()),
        ("token.", keys_of::<TokenSpec>()),
        ("token.server.", keys_of::<KeySpec>()),
        ("token.client.", keys_of::<KeySpec>()),
        ("limits.", keys_of::<LimitsSpec>()),
        ("log.", keys_of::<LogSpec>()),
        ("sandbox.", keys_of::<SandboxSpec>()),
    ] {
        assert!(!keys.is_empty());
        for key in keys {
            let key = format!("{section}{key}");
            assert!(stated.contains(&key), "policies/node.toml lacks {key}");
        }
    }
}

#[test]
fn the_samples_limits_are_the_defaults() {
    #[derive(Deserialize)]
    struct Sample {
        limits: LimitsSpec,
    }
    let sample: Sample = toml::from_str(SAMPLE).expect("it is TOML");
    let limits = sample.limits.resolve(|_, fault| panic!("{fault}"));
    assert_eq!(limits, Limits::default());
}
