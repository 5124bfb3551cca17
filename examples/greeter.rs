//! A gRPC service of your own behind Fastness: `cargo run --example greeter -- run --config node.toml`.

use fastness::{Node, PeerConnection};
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
        let who = PeerConnection::of(&request).ok_or_else(nobody)?.clone();
        let GreetRequest { name, via } = request.into_inner();
        if via.is_empty() {
            let own = self.0.id().as_str().rsplit('/').next().unwrap_or_default();
            let text = format!("Hello {name}, says {own} to {}", who.facts().peer.name());
            return Ok(Response::new(GreetResponse { text }));
        }
        // One pooled connection a peer, our client key inside its token.
        let mut peer = greeter_client::GreeterClient::new(self.0.channel(&via)?);
        let via = String::new();
        peer.greet(GreetRequest { name, via }).await
    }
}

fn main() -> std::process::ExitCode {
    fastness::run(|node| {
        let greeter = greeter_server::GreeterServer::new(Greeter(node.clone()));
        Routes::new(greeter.max_decoding_message_size(node.message_bytes()))
    })
}
