//! The product's own gRPC service, which both servers answer.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (proto, file) = ("../../proto", "../../proto/fastness/peer/v1/peer.proto");
    println!("cargo::rerun-if-changed={file}");
    tonic_prost_build::configure().compile_fds(protox::compile([file], [proto])?)?;
    Ok(())
}
