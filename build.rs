//! Generates the gRPC code without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/fastness/peer/v1/peer.proto",
        "proto/fastness/admin/v1/admin.proto",
        // For the tests of src/p2pfl, which reads without it.
        "proto/p2pfl/node.proto",
        // For examples/greeter.rs.
        "proto/greeter/v1/greeter.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // The admin messages are also what the command line prints as JSON and what the node
        // answers to its supervisor.
        .message_attribute(
            ".fastness.admin.v1",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
