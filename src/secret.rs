//! The user PIN and where it comes from.
