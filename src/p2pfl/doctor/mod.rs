//! `fastness p2pfl doctor`: what P2PFL leaves open on this host. It looks and changes nothing; key files
//! are not read, only looked at.

mod listening;
mod network;
mod process;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::fault::Fault;
use settings::Settings;

/// Where to look.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// Files with P2PFL's settings: an experiment (YAML), or Python that sets them.
    pub(crate) settings: Vec<PathBuf>,
    /// Where the package `p2pfl` is installed: its default key files are in there. Without it, and without
    /// settings, where running learners have it.
    pub(crate) package: Option<PathBuf>,
    /// Addresses of this host's learners; without any, of everything that looks like one.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) faults: Vec<Fault>,
    /// One line each: what is as it should be.
    pub(crate) seen: Vec<String>,
}

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        self.seen.push(what.into());
    }
}

/// Looks.
///
/// # Errors
/// A file of settings, or /proc, cannot be read.
pub(crate) fn look(questions: &Questions) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let running = listening::examine(&questions.addresses, &mut findings)?;
    if !questions.settings.is_empty() || questions.package.is_some() {
        let settings = Settings::read(&questions.settings, questions.package.as_deref())?;
        settings.examine(&mut findings);
    } else {
        // What the learners' own code sets is not known, but what lies there is.
        for package in running {
            Settings::read(&[], Some(&package))?.examine_keys(&mut findings);
        }
        findings.good("settings: not looked at; name them with --settings and --package");
    }
    Ok(findings)
}
