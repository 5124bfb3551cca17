//! `fastness p2pfl …`

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Exit, Failure, Format, output};
use crate::p2pfl::doctor::{self, Questions};

const EXAMPLE: &str = "\
Examples:
  fastness p2pfl doctor
  fastness p2pfl doctor --settings experiment.yaml --address 192.0.2.1:6666 \\
      --package /opt/learner/lib/python3.11/site-packages/p2pfl

Exit code 0 when nothing is open, 3 when something is or cannot be seen: each finding says what to do.";

/// `fastness p2pfl …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum P2pflCommand {
    /// Find what P2PFL leaves open on this host, and say how to close it.
    ///
    /// P2PFL speaks plaintext without a warning when a key file is missing; its keys are in files; and it may
    /// listen where peers reach it without Fastness. Nothing is changed. Run it as root, on the host itself:
    /// other users' processes and files cannot be seen otherwise, nor from inside of a container what is outside.
    /// What cannot be seen is a finding too. Containers are looked into, each network namespace once. What a
    /// learner's own code sets is not seen: name that file with --settings. What listens on an address that
    /// others reach is asked once, in plaintext HTTP/2, whether it answers.
    Doctor(DoctorArgs),
}

/// Where to look.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct DoctorArgs {
    /// P2PFL's settings: its experiment (YAML), or the Python file that sets them; may be given again
    #[arg(long, value_name = "FILE")]
    settings: Vec<PathBuf>,
    /// Folder of the installed package: key files that no setting names are in its `certificates`. Without
    /// it and --settings, that of every running learner is looked at for keys
    #[arg(long, value_name = "FOLDER")]
    package: Option<PathBuf>,
    /// Where a learner of this host listens; may be given again. Without it, every listening Python
    /// process with gRPC is taken for one
    #[arg(long, value_name = "IP:PORT")]
    address: Vec<SocketAddr>,
}

pub(super) fn run(command: P2pflCommand, format: Format) -> Result<(), Failure> {
    let P2pflCommand::Doctor(args) = command;
    let questions = Questions {
        settings: args.settings,
        package: args.package,
        addresses: args.address,
    };
    let findings = doctor::look(&questions)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot look: {error}")))?;
    if !findings.faults.is_empty() {
        if format == Format::Human {
            output::text(&findings.seen.join("\n"))?;
        }
        let count = findings.faults.len();
        let message = format!("P2PFL leaves something open on this host: {count} findings above");
        return Err(Failure::faults(message, findings.faults));
    }
    match format {
        Format::Json => output::json(&serde_json::json!({
            "ok": true,
            "faults": [],
            "seen": findings.seen,
        })),
        Format::Human => output::text(
            &[&findings.seen[..], &["nothing is open".to_owned()]]
                .concat()
                .join("\n"),
        ),
    }
}
