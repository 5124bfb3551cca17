//! TEST DOUBLE. A PKCS#11 module that wraps another one and rehearses its outages: it delays, fails,
//! hangs, corrupts, limits, forgets and aborts as it is told, from outside and while it runs, and
//! counts every call.
//!
//! In reading order:
//! - [`functions`]: the table of all functions, which the rest is made from;
//! - [`codes`]: return codes by name;
//! - [`state`]: rules and counters as atomics, [`mapping`]: the file they are in;
//! - [`command`]: rules in words; [`counts`]: counters in words;
//! - `gate`: the way of every call; `lane`: delays; `sessions`: what is open; `special`: functions
//!   that need more than the gate; `wrap`: the C functions;
//! - `settings`, `exports`: how the module starts.
//!
//! After C_GetFunctionList the module opens nothing and writes nothing but memory; it waits with
//! clock_nanosleep and, between its own threads, futex.

#[cfg(not(target_os = "linux"))]
compile_error!("the fault module waits and maps as Linux does");

mod clock;
pub mod codes;
pub mod command;
pub mod counts;
mod exports;
pub mod functions;
mod gate;
mod lane;
pub mod mapping;
mod sessions;
mod settings;
mod special;
pub mod state;
mod wrap;
