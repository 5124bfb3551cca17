//! The product's own gRPC services: both servers answer the same calls, and a node is told to dial.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto";
    let files = ["../../proto/fastness/peer/v1/peer.proto", "../../proto/fastness/admin/v1/admin.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, [proto])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
