//! The tests of the whole: the real binary, real tokens, real sockets, judges from elsewhere. One
//! file a behaviour, one binary for all (each would link the whole library again).
//!
//! `./tests/run` installs what they need and runs them; `./tests/run NAME` runs some.

#![expect(
    unreachable_pub,
    reason = "`pub` says what a test may use; the crate is one program"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod softhsm;
mod support;

mod admission; // Strangers by the hundred; metrics.
mod authority; // Whom the authority certifies, and whose folder it goes by.
mod bad_input; // Every fault is named with its place and its mend.
mod channels; // What a role does to the channels ends with it.
mod confinement; // Every process is confined, and the mesh does its work so.
mod crates; // deny.toml, without cargo-deny.
mod demo; // hsm-setup/demo, as a newcomer runs it.
mod failover; // Two tokens with the same keys.
mod fifos; // A FIFO in the place of a file.
mod greeter; // The library: a service of one's own behind all of this.
mod hsm_outage; // A slow, hung or dying HSM.
mod hsm_table; // Every return code from every call.
mod idle; // Half an hour in small, in which nobody asks anything.
mod judges; // grpcio, openssl and python-pkcs11 agree.
mod keeper_boundary; // A node that was taken over gets no signature but its handshakes'.
mod kinds; // Every kind of key.
mod learn; // A draft of a profile from what a module does.
mod memory; // Where secrets are in memory, and where not.
mod mends; // Every fault at once, with a mend that mends it.
mod mesh; // Two nodes, and what they survive.
mod methods; // What a peer may call, and that a reload reaches who is there already.
mod names; // Looked up by a process of its own.
mod old_kernel; // What a kernel lacks is named, and nothing starts.
mod one_login; // Several keepers of one token, and one wrong PIN.
mod p2pfl; // P2PFL learners, unmodified, beside nodes on hosts of their own.
mod parsers; // No input makes a parser panic.
mod pki; // The authority, judged by openssl.
mod profiles; // What is shown is what is loaded; an administrator's own profiles.
mod proxy; // An unchanged application beside each node.
mod readiness; // What load balancers and systemd see of it.
mod refusals; // Whom a node refuses, and what it tells them.
mod reload; // In turn, none lost, and nobody waits for it.
mod rooms; // The source keeps to the design; samples and manual are true.
mod scripts; // What they install, and where they cannot.
mod shown; // What roles may do, shown without PINs.
mod soak; // Faults in any order leave nothing behind.
mod streams; // Nobody hears what a command says.
mod token_cli; // `fastness token`, judged by openssl, pkcs11-tool, p11tool and a spy.
mod token_files; // What a keeper may still open.
mod token_ports; // What a token's module may connect to.
mod token_session; // The token room as a library.
mod token_usage; // What is found before a PIN is read; several at once.
mod unechoed; // A secret in a wrong place is not repeated.
mod unlock; // A PIN that cannot be taken again.
mod upstreams; // Applications that speak no gRPC.
mod users; // Each role a user of its own.
