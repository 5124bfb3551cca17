//! A gRPC service of your own behind Fastness: `cargo run --example greeter -- run --config node.toml`.

use fastness::{Node, PeerConnection};
use tonic::{Request, Response, Status, service::Routes};

#[expect(unreachable_pub, reason = "generated")]
mod greeter {
    tonic::include_proto!("greeter.v1");
}
use greeter::{GreetRequest, GreetResponse, greeter_client, greeter_server};

struct Greeter(Node);

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn greet(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<GreetResponse>, Status> {
        // Mutual TLS and the peer policy have decided who this is.
        let caller = PeerConnection::of(&request)
            .ok_or_else(|| Status::internal("no peer"))?
            .clone();
        let GreetRequest { name, via } = request.into_inner();
        if via.is_empty() {
            let own = self.0.id().as_str().rsplit('/').next().unwrap_or_default();
            let text = format!("Hello {name}, says {own} to {}", caller.0.peer.name());
            return Ok(Response::new(GreetResponse { text }));
        }
        // One pooled connection a peer, our client key inside its token.
        let peer = self
            .0
            .channel(&via)
            .map_err(|error| Status::not_found(error.to_string()))?;
        greeter_client::GreeterClient::new(peer)
            .greet(GreetRequest {
                name,
                via: String::new(),
            })
            .await
    }
}

fn main() -> std::process::ExitCode {
    fastness::run(|node| Routes::new(greeter_server::GreeterServer::new(Greeter(node.clone()))))
}
