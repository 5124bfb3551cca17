//! The product's own gRPC service, so that both servers answer the same calls.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    let file = "../../proto/fastness/peer/v1/peer.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], [proto])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
