//! One role as a process: started from our own binary, watched, spoken to, ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use crate::control::frame;
use crate::sandbox::User;

/// The role a process plays; its hidden command on our own command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Keeper,
    Node,
    Resolver,
}

impl Role {
    /// The argument that starts our binary in this role.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Keeper => "role-keeper",
            Self::Node => "role-node",
            Self::Resolver => "role-resolver",
        }
    }
}

/// What a child did.
#[derive(Debug)]
pub(crate) enum ChildEvent<M> {
    Said(M),
    Exited(ExitStatus),
}

/// Whether an end may be another one the next time: killed from outside or by its own crash, and not for a call
/// that its profile does not have, nor by itself for what it was given.
pub(super) fn may_pass(status: ExitStatus) -> bool {
    let fate = status.signal();
    fate.is_some_and(|signal| signal != Signal::SYS.as_raw())
}

/// A running child. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    frames: mpsc::Sender<Vec<u8>>,
    kill: Option<oneshot::Sender<()>>,
}

/// How a child is started.
pub(super) struct Start<'a, S> {
    pub(super) role: Role,
    /// The user that it runs as; ours without one.
    pub(super) user: Option<User>,
    pub(super) environment: &'a BTreeMap<String, String>,
    /// In the terminal's foreground group, so that it can prompt for a PIN.
    pub(super) interactive: bool,
    /// The longest frame that it may say, in bytes.
    pub(super) longest: usize,
    pub(super) setup: &'a S,
    pub(super) descriptors: &'a [BorrowedFd<'a>],
}

/// Orders waiting for a child that does not read; beyond, it counts as hung.
const QUEUED_FRAMES: usize = 64;
/// How long what an ended child said last may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Child {
    /// Starts our own binary again in a role, gives it its setup and descriptors, and reports all
    /// that it says, and at last its exit, through `report`.
    pub(super) fn start<S, M, E>(
        start: &Start<'_, S>,
        events: mpsc::Sender<E>,
        report: impl Fn(ChildEvent<M>) -> E + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        S: Serialize,
        M: DeserializeOwned + Send + 'static,
        E: Send + 'static,
    {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("fastness")
            .arg(start.role.argument())
            .env_clear()
            .envs(start.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true);
        if let Some(User { uid, gid }) = start.user {
            // The standard library sets the group first, and empties the list of others when we are
            // root; who we are otherwise has emptied it before.
            command.uid(uid).gid(gid);
        }
        if !start.interactive {
            // Ctrl-C reaches us alone: we drain, then end them.
            command.process_group(0);
        }
        let mut process = command.spawn()?;
        drop(command);
        frame::send_with_descriptors(&ours, start.setup, start.descriptors)?;
        ours.set_nonblocking(true)?;
        let (mut reader, mut writer) = UnixStream::from_std(ours)?.into_split();

        let (frames, mut queued) = mpsc::channel::<Vec<u8>>(QUEUED_FRAMES);
        tokio::spawn(async move {
            while let Some(frame) = queued.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
            }
        });
        let (kill, mut killed) = oneshot::channel();
        let pid = process.id().unwrap_or_default();
        let longest = start.longest;
        tokio::spawn(async move {
            let reading = async {
                while let Ok(Some(message)) = frame::receive_within::<M>(&mut reader, longest).await
                {
                    if events
                        .send(report(ChildEvent::Said(message)))
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            };
            tokio::pin!(reading);
            let (mut silent, mut told) = (false, false);
            let status = loop {
                tokio::select! {
                    () = &mut reading, if !silent => silent = true,
                    status = process.wait() => break status,
                    _ = &mut killed, if !told => {
                        told = true;
                        // The child may have gone by itself in this moment.
                        let _ = process.start_kill();
                    }
                }
            };
            if !silent {
                // Why it ended may still be on its way: a refused PIN that is not heard would be
                // tried again.
                let _ = tokio::time::timeout(LAST_WORDS, reading).await;
            }
            if let Ok(status) = status {
                let _ = events.send(report(ChildEvent::Exited(status))).await;
            }
        });
        Ok(Self {
            pid,
            frames,
            kill: Some(kill),
        })
    }

    /// Whether it keeps up with its orders: what is not one must not fill the queue.
    pub(super) fn keeps_up(&self) -> bool {
        self.frames.capacity() > QUEUED_FRAMES / 2
    }

    /// Sends an order. False when the child does not read: it hangs.
    #[must_use]
    pub(super) fn tell<T: Serialize>(&self, message: &T) -> bool {
        frame::encode(message).is_ok_and(|frame| self.frames.try_send(frame).is_ok())
    }

    /// Ends the process with SIGKILL; its exit is reported.
    pub(super) fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
    }
}
