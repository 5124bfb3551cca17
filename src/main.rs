//! `fastness`: the library's command line, without services of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    fastness::run(|_node| tonic::service::Routes::default())
}
