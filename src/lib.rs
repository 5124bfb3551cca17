//! Fastness: a hardened node runtime. Mutual-TLS gRPC between peers, every private key inside a
//! PKCS#11 token, and the process that faces the network holds neither key, PIN nor module.

#![warn(missing_docs)]

pub mod role;
pub mod fault;
pub mod toml_faults;
pub mod secret;
pub mod token;
pub mod keeper;
pub mod policy;
pub mod tls;
pub mod pki;
pub mod cli;
