//! The application's side. Fastness stands beside an application that speaks plaintext gRPC to a place
//! only it can reach; peers see mutual TLS. *Ingress* is peers' calls to the application, *egress* the
//! application's calls to peers. Calls are passed on as they come, frame by frame: no message is held
//! as a whole, windows reach from end to end, and a cancelled call is cancelled on the other side.

mod announced;
mod authority;
mod bounded;
mod budget;
mod connect;
mod corked;
mod exchange;
mod frames;
mod gathered;
mod head;
mod header_lists;
pub(crate) mod health;
mod http1;
mod hygiene;
mod inspect;
mod local;
mod moving;
mod opening;
mod pool;
mod pump;
mod refusal;
mod session;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod translate;
pub(crate) mod tunnel;
mod untaken;
mod upstream;
mod web;

pub(crate) use connect::{Asked, asked};
pub(crate) use frames::{LATE, remembered};
pub(crate) use head::{Caller, clean};
pub(crate) use inspect::{Inspect, Look};
pub(crate) use pool::{ByteStream, Dial, Dialling, Other, Pool};
pub(crate) use refusal::{Code, Refusal, is_grpc};
pub(crate) use session::{Direction, Session, Target};
pub(crate) use settings::Settings;
pub(crate) use upstream::Upstream;
pub(crate) use web::Web;
