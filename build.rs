//! Generates the gRPC code without protoc.

/// A build without filters must be wanted twice, so that no `--all-features` makes one.
fn refuse_unfiltered() -> Result<(), &'static str> {
    const WORD: &str = "FASTNESS_BUILD_WITHOUT_FILTERS";
    println!("cargo::rerun-if-env-changed={WORD}");
    let feature = std::env::var_os("CARGO_FEATURE_DANGEROUS_UNFILTERED_BENCH").is_some();
    let said = std::env::var(WORD).is_ok_and(|said| said == "for benches/run filters");
    match feature && !said {
        true => {
            Err("dangerous-unfiltered-bench is for `benches/run filters` alone: build without it")
        }
        false => Ok(()),
    }
}

/// What attacks itself is for tests: no setting of a release profile makes one.
fn refuse_attackers() -> Result<(), &'static str> {
    let feature = std::env::var_os("CARGO_FEATURE_ATTACK_TRIGGER").is_some();
    // "release" for every profile that inherits from it, whatever it sets.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    match feature && release {
        true => Err("attack-trigger is for tests alone: build without it, or without --release"),
        false => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    refuse_unfiltered()?;
    refuse_attackers()?;
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
