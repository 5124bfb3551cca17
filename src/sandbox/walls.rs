//! Landlock: what a process still sees of files, TCP ports and other processes (landlock(7)).

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use serde::Serialize;

use super::{Maker, NEEDS, SandboxError};
use crate::fault::Fault;

/// The version that everything asked for is in (Linux 6.12).
const VERSION: ABI = ABI::V6;

/// The port at which a nameserver is asked over TCP (RFC 7766).
pub(crate) const NAMES: u16 = 53;

/// What getaddrinfo(3) reads on the machines that we know.
const NAME_SERVICES: [&str; 13] = [
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/mdns.allow",
    "/etc/ld.so.cache",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/run/systemd/machines",
];

/// What a role leaves itself. No role may bind a TCP port, and none signals a process or connects to an abstract
/// socket (unix(7)) outside of its own walls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walls {
    files: Files,
    /// TCP ports that it may connect to.
    ports: BTreeSet<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Files {
    /// The supervisor: everything but running other programs than these and making devices.
    Programs(Vec<PathBuf>),
    /// A keeper after login, and a resolver: reading these and what is beneath them, no writing, no programs.
    ReadOnly(Vec<PathBuf>),
    /// The node.
    None,
}

/// What is left of the system behind walls.
#[derive(Debug, Serialize)]
pub(crate) struct Reach {
    /// Files, and all beneath folders.
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    execute: Vec<PathBuf>,
    /// Ports.
    bind_tcp: Vec<u16>,
    connect_tcp: BTreeSet<u16>,
    signals_outside: bool,
    abstract_sockets_outside: bool,
    /// For people, as attestations have it.
    pub(crate) summary: String,
}

impl Walls {
    /// The supervisor's: our own binary, and the loader that the kernel runs it with. What it starts is behind them
    /// too, so its ports are those of all roles.
    pub(crate) fn of_supervisor(ports: BTreeSet<u16>) -> io::Result<Self> {
        let own = PathBuf::from("/proc/self/exe");
        let loader = interpreter(&File::open(&own)?)?;
        Ok(Self {
            files: Files::Programs([Some(own), loader].into_iter().flatten().collect()),
            ports,
        })
    }

    /// A keeper's: `files`, which its token's configuration names, and what we know that its module opens
    /// again, by the token's maker and the module's environment; TCP connections to `ports`. A module that is
    /// refused a file fails, and the next keeper opens it before its walls are there.
    pub(crate) fn of_token(
        maker: Maker,
        files: &[PathBuf],
        ports: &BTreeSet<u16>,
        environment: impl Fn(&str) -> Option<PathBuf>,
    ) -> Self {
        let settings = match maker {
            Maker::SoftHsm => Some(environment(SETTINGS).unwrap_or_else(|| USUAL_SETTINGS.into())),
            // It keeps its database open.
            Maker::Kryoptic => None,
            // SoftHSM may be behind it: a proxy, a test double.
            Maker::Other => environment(SETTINGS),
        };
        let known = settings.map_or_else(Vec::new, softhsm_folders);
        Self {
            files: Files::ReadOnly(known.into_iter().chain(files.iter().cloned()).collect()),
            ports: ports.clone(),
        }
    }

    /// The node's: no file at all, and TCP connections to `ports`.
    pub(crate) fn of_node(ports: BTreeSet<u16>) -> Self {
        Self {
            files: Files::None,
            ports,
        }
    }

    /// The resolver's: the settings of name services (nsswitch.conf(5), resolver(5)), what their modules are loaded
    /// from, and a nameserver's TCP port.
    pub(crate) fn of_resolver() -> Self {
        let there = NAME_SERVICES.iter().map(PathBuf::from);
        Self {
            files: Files::ReadOnly(there.filter(|path| path.exists()).collect()),
            ports: BTreeSet::from([NAMES]),
        }
    }

    /// What they leave, for programs.
    pub(crate) fn reach(&self) -> Reach {
        let everything = || vec![PathBuf::from("/")];
        let (read, write, execute) = match &self.files {
            Files::Programs(programs) => (everything(), everything(), programs.clone()),
            Files::ReadOnly(paths) => (paths.clone(), Vec::new(), Vec::new()),
            Files::None => (Vec::new(), Vec::new(), Vec::new()),
        };
        Reach {
            read,
            write,
            execute,
            bind_tcp: Vec::new(),
            connect_tcp: self.ports.clone(),
            signals_outside: false,
            abstract_sockets_outside: false,
            summary: self.to_string(),
        }
    }

    /// Raises them around this thread and those that it will start.
    pub(super) fn raise(&self) -> Result<(), SandboxError> {
        match self.restrict() {
            Ok(RulesetStatus::FullyEnforced) => Ok(()),
            Ok(_) => Err(SandboxError::Partly),
            Err(cause) => Err(SandboxError::Refused {
                step: "Landlock with its scopes",
                since: "6.12",
                cause,
            }),
        }
    }

    fn restrict(&self) -> Result<RulesetStatus, Box<dyn std::error::Error + Send + Sync>> {
        let files = match &self.files {
            // Refer is refused when it is not spoken of.
            Files::Programs(_) => {
                AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::Refer
            }
            // An open device is a module's business; which may be opened is seccomp's and the system's.
            Files::ReadOnly(_) => AccessFs::from_all(VERSION) & !AccessFs::IoctlDev,
            Files::None => AccessFs::from_all(VERSION),
        };
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(files)?
            .handle_access(AccessNet::from_all(VERSION))?
            .scope(Scope::from_all(VERSION))?
            .create()?;
        let (paths, rights) = match &self.files {
            Files::Programs(programs) => (programs.as_slice(), AccessFs::Execute.into()),
            Files::ReadOnly(paths) => (paths.as_slice(), AccessFs::ReadFile | AccessFs::ReadDir),
            Files::None => (&[][..], AccessFs::ReadFile.into()),
        };
        for port in &self.ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        if let Files::Programs(_) = self.files {
            rules = rules.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::Refer))?;
        }
        for path in paths {
            let opened = PathFd::new(path)
                .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
            let rights = if path.is_dir() {
                rights
            } else {
                rights & !AccessFs::ReadDir
            };
            rules = rules.add_rule(PathBeneath::new(opened, rights))?;
        }
        Ok(rules.restrict_self()?.ruleset)
    }
}

impl fmt::Display for Walls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| {
            paths
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match &self.files {
            Files::Programs(programs) => {
                write!(f, "runs only {}; makes no devices", list(programs))?
            }
            Files::ReadOnly(paths) if paths.is_empty() => {
                f.write_str("opens no file and runs nothing")?
            }
            Files::ReadOnly(paths) => {
                write!(f, "reads only {}; writes and runs nothing", list(paths))?
            }
            Files::None => f.write_str("no files")?,
        }
        let ports: Vec<_> = self.ports.iter().map(u16::to_string).collect();
        match ports.as_slice() {
            [] => f.write_str("; connects to no TCP port")?,
            some => write!(f, "; connects to only TCP ports {}", some.join(", "))?,
        }
        f.write_str("; binds no TCP port; signals no process outside; no abstract sockets outside")
    }
}

/// What the kernel lacks: asks for it and applies nothing.
pub(super) fn missing() -> Option<Fault> {
    let ask = || -> Result<(), RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::from_all(VERSION))?
            .scope(Scope::from_all(VERSION))?
            .create()
            .map(drop)
    };
    let error = ask().err()?;
    Some(Fault::new(
        "kernel",
        format!("Landlock with its scopes is not there: {error}"),
        format!("fastness needs {NEEDS}"),
    ))
}

/// The variable that names SoftHSM's settings, and those it has without.
const SETTINGS: &str = "SOFTHSM2_CONF";
const USUAL_SETTINGS: &str = "/etc/softhsm/softhsm2.conf";

/// The tokens' folder of SoftHSM with these settings (softhsm2.conf(5)), and the settings.
fn softhsm_folders(settings: PathBuf) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(&settings).unwrap_or_default();
    let folder = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "directories.tokendir").then(|| PathBuf::from(value.trim()))
    });
    let folder = folder.unwrap_or_else(|| "/var/lib/softhsm/tokens".into());
    [folder, settings]
        .into_iter()
        .filter(|path| path.exists())
        .collect()
}

/// The loader that `program` asks for (elf(5), PT_INTERP); `None` for a static one.
fn interpreter(program: &File) -> io::Result<Option<PathBuf>> {
    let mut head = [0; 64];
    let mut reader = program;
    reader.read_exact(&mut head)?;
    let malformed = || io::Error::other("our own binary is not a 64-bit little-endian ELF file");
    if head[..6] != [0x7f, b'E', b'L', b'F', 2, 1] {
        return Err(malformed());
    }
    let word = |bytes: &[u8]| {
        bytes
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(io::Error::other)
    };
    let half = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (table, size, count) = (word(&head[32..40])?, half(54), half(56));
    for number in 0..count {
        const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
        let mut entry = [0; 56];
        program.read_exact_at(&mut entry, table + number * size)?;
        if entry[..4] == PT_INTERP {
            let length =
                usize::try_from(word(&entry[32..40])?.min(4096)).map_err(io::Error::other)?;
            let mut path = vec![0; length];
            program.read_exact_at(&mut path, word(&entry[8..16])?)?;
            let path = String::from_utf8(path).map_err(io::Error::other)?;
            return Ok(Some(Path::new(path.trim_end_matches('\0')).to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_only(files: &[PathBuf]) -> Walls {
        Walls {
            files: Files::ReadOnly(files.to_vec()),
            ports: BTreeSet::new(),
        }
    }

    #[test]
    fn the_loader_of_this_test_is_found() {
        let own = Walls::of_supervisor(BTreeSet::new()).unwrap();
        let Files::Programs(programs) = own.files else {
            panic!("not programs")
        };
        assert!(
            programs.iter().all(|program| program.exists()),
            "{programs:?}"
        );
    }

    #[test]
    fn what_the_supervisor_starts_can_reach_its_ports_through_its_walls() {
        let walls = Walls::of_supervisor(BTreeSet::from([7443])).unwrap();
        assert_eq!(walls.reach().connect_tcp, BTreeSet::from([7443]));
        let text = walls.to_string();
        assert!(text.contains("only TCP ports 7443;"), "{text}");
    }

    #[test]
    fn a_resolver_reads_what_names_are_found_with() {
        let walls = Walls::of_resolver();
        let text = walls.to_string();
        assert!(text.starts_with("reads only /etc/"), "{text}");
        assert!(
            text.contains("; writes and runs nothing; connects to only TCP ports 53;"),
            "{text}"
        );
        for needed in ["/etc/nsswitch.conf", "/etc/hosts", "/usr/lib"] {
            assert!(walls.reach().read.contains(&needed.into()), "{text}");
        }
    }

    #[test]
    fn softhsm_reads_its_settings_and_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, settings) = (
            folder.path().join("tokens"),
            folder.path().join("softhsm2.conf"),
        );
        std::fs::create_dir(&tokens).unwrap();
        std::fs::write(
            &settings,
            format!(
                "log.level = ERROR\ndirectories.tokendir = {}\n",
                tokens.display()
            ),
        )
        .unwrap();
        let both = read_only(&[tokens, settings.clone()]);
        let of_token =
            |maker| Walls::of_token(maker, &[], &BTreeSet::new(), |_| Some(settings.clone()));
        for maker in [Maker::SoftHsm, Maker::Other] {
            let walls = of_token(maker);
            assert_eq!(walls, both, "{maker:?}");
        }
        let walls = of_token(Maker::Kryoptic);
        assert_eq!(walls, read_only(&[]));
    }

    #[test]
    fn a_module_that_we_do_not_know_reaches_what_is_named_for_its_token_and_nothing_else() {
        let walls = |files: &[PathBuf], ports: &[u16]| {
            let ports = ports.iter().copied().collect();
            Walls::of_token(Maker::Other, files, &ports, |_| None)
        };
        assert_eq!(walls(&[], &[]), read_only(&[]));
        assert!(walls(&[], &[]).reach().connect_tcp.is_empty());
        let named = [PathBuf::from("/opt/vendor")];
        assert_eq!(walls(&named, &[]), read_only(&named));
        let reach = walls(&named, &[1792]).reach();
        assert_eq!(reach.connect_tcp, BTreeSet::from([1792]));
        let text = reach.summary;
        assert!(text.contains("connects to only TCP ports 1792;"), "{text}");
    }
}
