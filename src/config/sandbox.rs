//! `[sandbox]`, and what a `[[token]]` says of its keeper's confinement: files, ports, users and profiles.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::spec::{SandboxSpec, Spec, TokenSpec};
use super::{Aim, Config, Place, Reader, TokenConfig, files};
use crate::fault::{Fault, chain};
use crate::sandbox::{NAMES, OwnProfile, Role, User};

const NODE_USER: &str = "sandbox.node_user";

/// What the configuration says of the node's confinement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeSandbox {
    /// The user that it runs as.
    pub(crate) user: Option<User>,
    /// The administrator's profile for it.
    pub(crate) profile: Option<OwnProfile>,
    /// Ports that a later policy may dial.
    pub(crate) dial_ports: BTreeSet<u16>,
}

/// What it says of the resolver's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolverSandbox {
    /// The user that it runs as.
    pub(crate) user: Option<User>,
    /// The administrator's profile for it.
    pub(crate) profile: Option<OwnProfile>,
}

impl Config {
    /// The users that roles run as; none when they run as the supervisor's.
    pub(crate) fn users(&self) -> Vec<User> {
        let keepers = self.tokens.iter().filter_map(|token| token.user);
        let others = self.node.user.into_iter().chain(self.resolver.user);
        others.chain(keepers).collect()
    }

    /// The TCP ports that the node may connect to: those of peers, those stated in advance, and the
    /// application's at a loopback address.
    pub(crate) fn dials(&self) -> BTreeSet<u16> {
        let upstream = self
            .application
            .iter()
            .filter_map(|it| it.upstream.as_ref());
        let application = upstream.filter_map(|place| match place {
            Place::Tcp(address) => Some(address.port()),
            Place::Unix(_) => None,
        });
        let stated = &self.node.dial_ports | &self.peer_ports;
        stated.into_iter().chain(application).collect()
    }

    /// The TCP ports that any role may connect to: the node's, those of each token, and where the policy has names a
    /// nameserver's.
    pub(crate) fn connects(&self) -> BTreeSet<u16> {
        let tokens = self.tokens.iter().flat_map(|token| &token.ports).copied();
        let names = (!self.hosts.is_empty()).then_some(NAMES);
        let dials = self.dials().into_iter();
        dials.chain(tokens).chain(names).collect()
    }
}

impl Reader<'_> {
    pub(super) fn node_sandbox(
        &mut self,
        spec: &SandboxSpec,
        tokens: &[TokenConfig],
    ) -> NodeSandbox {
        let user = self.user(spec.node_user.as_ref(), NODE_USER);
        self.no_keepers(tokens, user, spec.node_user.as_ref(), NODE_USER);
        NodeSandbox {
            user,
            profile: self.own_profile(
                Role::Node,
                spec.node_profile.as_ref(),
                "sandbox.node_profile",
            ),
            dial_ports: self.ports(&spec.dial_ports, "sandbox.dial_ports", 7443),
        }
    }

    /// Without a user of its own the resolver has the node's: neither reads or signals the other.
    pub(super) fn resolver_sandbox(
        &mut self,
        spec: &SandboxSpec,
        node: &NodeSandbox,
        tokens: &[TokenConfig],
    ) -> ResolverSandbox {
        let key = "sandbox.resolver_user";
        let user = self.user(spec.resolver_user.as_ref(), key);
        if let (Some(stated), None) = (&spec.resolver_user, &spec.node_user)
            && !self.missed(NODE_USER)
        {
            let problem = "is there, and no other role has a user of its own";
            let mend = "name `node_user` in [sandbox] and `user` in each [[token]] too";
            self.fault(stated, Fault::new(key, problem, mend));
        }
        self.no_keepers(tokens, user, spec.resolver_user.as_ref(), key);
        ResolverSandbox {
            user: user.or(node.user),
            profile: self.own_profile(
                Role::Resolver,
                spec.resolver_profile.as_ref(),
                "sandbox.resolver_profile",
            ),
        }
    }

    /// TCP ports; `usual` is an example.
    pub(super) fn ports(&mut self, ports: &[Spanned<i64>], key: &str, usual: u16) -> BTreeSet<u16> {
        let mut found = BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            match u16::try_from(*port.get_ref()) {
                Ok(port) if port > 0 => drop(found.insert(port)),
                _ => {
                    let key = format!("{key}[{index}]");
                    let mend = format!("from 1 to 65535, such as {usual}");
                    let fault = Fault::new(key, "is no port", mend);
                    self.fault(port, fault);
                }
            }
        }
        found
    }

    /// What a token's keeper may still read. Landlock needs each to be there.
    pub(super) fn token_files(&mut self, files: &[Spanned<PathBuf>], key: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let path = self.folder.join(file.get_ref());
            let shown = path.display();
            let problem = if self.aim != Aim::Reload && !path.exists() {
                format!("{shown} is not there")
            } else if holds(&path, self.folder) {
                format!("{shown} holds this configuration, and all that stands beside it")
            } else {
                found.push(path);
                continue;
            };
            let fault = Fault::new(
                format!("{key}[{index}]"),
                problem,
                "name files and folders that the token's module opens again after the login",
            );
            self.fault(file, fault);
        }
        found
    }

    pub(super) fn user(&mut self, name: Option<&Spanned<String>>, key: &str) -> Option<User> {
        let name = name?;
        let ourselves = rustix::process::geteuid().as_raw();
        let found = User::named(name.get_ref()).and_then(|user| match user.uid {
            uid if uid == ourselves => Err("it is the supervisor's own user".to_owned()),
            _ => Ok(user),
        });
        let mend = "name a user made for this role alone: useradd --system --shell /usr/sbin/nologin fastness-node";
        match found {
            Ok(user) => Some(user),
            Err(problem) => {
                self.fault(name, Fault::new(key, problem, mend));
                None
            }
        }
    }

    /// Either every role has a user of its own, or none has. Of one that has a fault it is not said that it is
    /// missing.
    pub(super) fn users(&mut self, spec: &Spec) {
        let of_token = |index| format!("token[{index}].user");
        let of_node = spec.sandbox.node_user.is_some() || self.missed(NODE_USER);
        let is_without = |(index, token): (usize, &Spanned<TokenSpec>)| {
            let key = of_token(index);
            (token.get_ref().user.is_none() && !self.missed(&key)).then_some(key)
        };
        let tokens = spec.token.iter().enumerate();
        let without: Vec<String> = tokens.filter_map(is_without).collect();
        if !of_node && without.len() == spec.token.len() {
            return;
        }
        if !of_node {
            self.faults.push(Fault::new(
                NODE_USER,
                "is missing, and a keeper has a user of its own",
                "name a user that owns no file",
            ));
        }
        self.faults.extend(without.into_iter().map(|key| {
            Fault::new(
                key,
                "is missing, and another role has a user of its own",
                "name the user that may read the token's files",
            )
        }));
    }

    /// A role that hears strangers is nobody who may read a token.
    fn no_keepers(
        &mut self,
        tokens: &[TokenConfig],
        user: Option<User>,
        stated: Option<&Spanned<String>>,
        key: &str,
    ) {
        let shared = |token: &TokenConfig| matches!((token.user, user), (Some(keeper), Some(user)) if keeper.uid == user.uid);
        if let (Some(stated), true) = (stated, tokens.iter().any(shared)) {
            let problem = "is a keeper's user: that token's files could be read";
            self.fault(stated, Fault::new(key, problem, "name another user"));
        }
    }

    pub(super) fn own_profile(
        &mut self,
        role: Role,
        path: Option<&Spanned<PathBuf>>,
        key: &str,
    ) -> Option<OwnProfile> {
        let path = path?;
        let mut faults = Vec::new();
        let text = files::read_administrators(&self.folder.join(path.get_ref()), key, &mut faults);
        let own = text.map(|(resolved, text)| OwnProfile {
            path: resolved.display().to_string(),
            text,
        });
        let own = match own {
            Ok(own) => {
                if let Err(error) = own.check(role) {
                    faults.push(Fault::new(
                        key,
                        chain(&error),
                        "start from the profile in policies/seccomp/ for this role",
                    ));
                }
                Some(own)
            }
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        for fault in faults {
            self.fault(path, fault);
        }
        own
    }
}

/// Whether `inner` is `outer` or beneath it.
fn holds(outer: &Path, inner: &Path) -> bool {
    let real = std::fs::canonicalize::<&Path>;
    real(inner).is_ok_and(|inner| real(outer).is_ok_and(|outer| inner.starts_with(outer)))
}
