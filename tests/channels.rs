//! What a role that was taken over does to the channels between node and keeper ends with its process. The test
//! plays that role with the channels of the real one (pidfd_getfd(2)).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{SendFlags, Shutdown, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};

use fastness::keeper::message::{KeyIndex, MAX_REQUEST, Request};
use fastness::keeper::purpose;
use fastness::role::TlsRole;
use fastness::token::Scheme;

use crate::support::node::signal;
use crate::support::rehearsal::Rehearsal;
use crate::support::{Mesh, Shaker, as_root};

/// Copies of a process's ends.
fn channels_of(pid: u32) -> Vec<OwnedFd> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let pid = Pid::from_raw(pid.cast_signed()).expect("not 0");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let copies = folder.map(|entry| {
        let name = entry.expect("an entry").file_name();
        let number = name.to_string_lossy().parse().expect("a number");
        pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("a copy")
    });
    let is_channel = |copy: &OwnedFd| sockopt::socket_type(copy) == Ok(SocketType::SEQPACKET);
    copies.filter(is_channel).collect()
}

#[test]
fn channels_that_a_keeper_has_shut_down_are_made_anew_at_its_end() {
    as_root("takes descriptors of other processes");
    let mut mesh = Mesh::new();
    let shaker = Shaker::new(&mut mesh, "c");
    let a = mesh.start("a");
    let (keeper, node) = (a.pid("keeper"), a.pid("node"));
    let channels = channels_of(keeper);
    assert!(channels.len() > 1);
    for channel in &channels {
        rustix::net::shutdown(channel, Shutdown::Both).expect("it is shut down");
    }
    signal(keeper, Signal::KILL);
    a.wait_replaced("keeper", keeper);
    a.wait_replaced("node", node);
    shaker.shake().expect("the token signs");
}

#[test]
fn what_a_node_that_is_gone_had_asked_is_not_signed() {
    const QUEUED: usize = 500;
    as_root("takes descriptors of other processes");
    let rehearsal = Rehearsal::probed_each(3_600_000);
    let (a, _b) = rehearsal.start();
    rehearsal.fault.order("set C_Sign delay=200ms");
    let node = a.pid("node");
    signal(node, Signal::STOP);
    let mut packet = [0; MAX_REQUEST];
    let request = Request {
        id: 1,
        key: KeyIndex(0),
        scheme: Scheme::EcdsaP256Sha256,
        input: &purpose::probe(TlsRole::Server, [7; 32]),
    };
    let length = request.encode(&mut packet).expect("a request");
    let send = |channel| rustix::net::send(channel, &packet[..length], SendFlags::DONTWAIT);
    let channels = channels_of(node);
    let queued: usize = channels
        .iter()
        .map(|channel| std::iter::from_fn(|| send(channel).ok()).count())
        .sum();
    assert!(queued > QUEUED, "{queued}");
    signal(node, Signal::KILL);
    a.wait_replaced("node", node);
    let before = rehearsal.fault.counts().signatures();
    // Four sessions make 60 in this time.
    std::thread::sleep(Duration::from_secs(3));
    let signed = rehearsal.fault.counts().signatures() - before;
    assert!(signed < 20, "{signed} signatures that nobody waits for");
    rehearsal.recovered();
}
