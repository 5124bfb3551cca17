//! A gRPC service of your own behind Fastness: `cargo run --example greeter -- run --config node.toml`.

use fastness::{Node, PeerConnection, UnknownPeer};
use tonic::{Request, Response, Status, service::Routes};

#[expect(unreachable_pub, reason = "generated")]
mod greeter {
    tonic::include_proto!("greeter.v1");
}
use greeter::{GreetRequest, GreetResponse, greeter_client, greeter_server};

struct Greeter(Node);
type Greeted = Result<Response<GreetResponse>, Status>;

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn greet(&self, request: Request<GreetRequest>) -> Greeted {
        // Mutual TLS and the peer policy have decided who this is.
        let nobody = || Status::internal("no peer");
        let caller = PeerConnection::of(&request).ok_or_else(nobody)?.clone();
        let mut greet = request.into_inner();
        let via = std::mem::take(&mut greet.via);
        if via.is_empty() {
            let (own, caller) = (self.0.id(), caller.facts().peer.name());
            let own = own.as_str().rsplit('/').next().unwrap_or_default();
            let text = format!("Hello {}, says {own} to {caller}", greet.name);
            return Ok(Response::new(GreetResponse { text }));
        }
        // One pooled connection a peer, our client key inside its token.
        let unknown = |error: UnknownPeer| Status::not_found(error.to_string());
        let peer = self.0.channel(&via).map_err(unknown)?;
        greeter_client::GreeterClient::new(peer).greet(greet).await
    }
}

fn main() -> std::process::ExitCode {
    fastness::run(|node| Routes::new(greeter_server::GreeterServer::new(Greeter(node.clone()))))
}
