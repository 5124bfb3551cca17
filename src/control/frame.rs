//! Frames on a control channel: a length of four bytes, big endian, and that many bytes of JSON.
//! The first frame to a role may carry descriptors (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a frame's length.
const HEADER: usize = 4;
/// Longest frame: a peer policy of 4 MiB, doubled by JSON's escapes, and room beside it.
const MAX_FRAME: usize = 16 << 20;
/// Longest frame from a role: the supervisor takes it apart on its main loop. The longest good one lists the
/// peers: a policy of 4 MiB with its 10 000 peers, and 400 bytes of JSON and of the last error beside each. A
/// thousand peers with an address each take half a megabyte, and so do a thousand connections.
pub(crate) const MAX_FROM_ROLE: usize = 8 << 20;
/// What a configuration's files may take of a frame, in bytes of JSON.
pub(crate) const MAX_FILES: usize = MAX_FRAME - (2 << 20);
/// Descriptors that go at once; Linux takes 253 (`SCM_MAX_FD`). More of them go in batches.
const BATCH: usize = 250;
/// Most descriptors with one frame: all channels of eight tokens with 64 sessions, and all places of an
/// application with its 1024 peers, and room beside them.
const MAX_DESCRIPTORS: usize = 2048;

/// The frame of `message`, header included.
pub(crate) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    encode_within(message, MAX_FRAME)
}

/// As [`encode`], for whoever takes no frame longer than `longest`.
pub(crate) fn encode_within<T: Serialize>(message: &T, longest: usize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER;
    let header = u32::try_from(length).ok().filter(|_| length <= longest);
    let header = header.ok_or_else(|| io::Error::other("message too long for a control frame"))?;
    frame[..HEADER].copy_from_slice(&header.to_be_bytes());
    Ok(frame)
}

/// Sends `message` with `descriptors` to a role that has just been started.
pub(crate) fn send_with_descriptors<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let frame = encode(message)?;
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other("too many descriptors for one frame"));
    }
    // The header goes with the first batch, a byte with each of the others.
    let mut batches = descriptors.chunks(BATCH);
    let (mut sent, mut end) = (0, HEADER);
    while sent < frame.len() {
        let batch = batches.next().unwrap_or_default();
        if sent >= HEADER {
            end = if batch.is_empty() {
                frame.len()
            } else {
                sent + 1
            };
        }
        sent += send_batch(&socket, &frame[sent..end], batch)?;
    }
    match batches.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("a frame too short for its descriptors")),
    }
}

fn send_batch(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in a batch"));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(
        socket,
        &bytes,
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

/// Receives the first frame and the descriptors that came with it.
pub(crate) fn receive_with_descriptors<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut descriptors = Vec::new();
    let mut header = [0; HEADER];
    receive_all(&socket, &mut header, &mut descriptors)?;
    let mut body = vec![0; length(header, MAX_FRAME)?];
    receive_all(&socket, &mut body, &mut descriptors)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

/// Fills `bytes`; what comes with them is added to `descriptors`.
fn receive_all(
    socket: impl AsFd,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &socket,
                &mut [IoSliceMut::new(&mut bytes[filled..])],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += received.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                descriptors.extend(came);
            }
        }
        let cut = received.flags.contains(ReturnFlags::CTRUNC);
        if cut || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::other("too many descriptors with one frame"));
        }
    }
    Ok(())
}

/// Reads one frame. `None` when the other side has closed the channel.
pub(crate) fn receive<T: DeserializeOwned>(mut socket: impl Read) -> io::Result<Option<T>> {
    let mut header = [0; HEADER];
    match socket.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let mut body = vec![0; length(header, MAX_FRAME)?];
    socket.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// As [`receive`], on a tokio stream, from the supervisor.
pub(crate) async fn receive_async<T: DeserializeOwned>(
    socket: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    receive_within(socket, MAX_FRAME).await
}

/// As [`receive_async`], with no frame longer than `longest`.
pub(crate) async fn receive_within<T: DeserializeOwned>(
    socket: &mut (impl AsyncRead + Unpin),
    longest: usize,
) -> io::Result<Option<T>> {
    let mut header = [0; HEADER];
    match socket.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    };
    let mut body = vec![0; length(header, longest)?];
    socket.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Writes one frame.
pub(crate) fn send<T: Serialize>(mut socket: impl Write, message: &T) -> io::Result<()> {
    socket.write_all(&encode(message)?)
}

fn length(header: [u8; HEADER], longest: usize) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > longest {
        return Err(io::Error::other("control frame too long"));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_beyond_one_batch_come_with_their_frame_in_their_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let (file, second) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let text = "a message".repeat(1000);
        for count in [0, 1, BATCH, BATCH + 1, 2 * BATCH + 7] {
            let mut descriptors = vec![file.0.as_fd(); count];
            if let Some(last) = descriptors.last_mut() {
                *last = second.0.as_fd();
            }
            send_with_descriptors(&one, &text, &descriptors).unwrap();
            send(&one, &"the next one").unwrap();
            let (came, mut found) = receive_with_descriptors::<String>(&other).unwrap();
            assert_eq!((came, found.len()), (text.clone(), count));
            let next: Option<String> = receive(&other).unwrap();
            assert_eq!(next.as_deref(), Some("the next one"));
            if let Some(last) = found.pop() {
                let inode = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
                assert_eq!(inode(&last), inode(&second.0), "{}", last.as_raw_fd());
                assert!(found.iter().all(|one| inode(one) == inode(&file.0)));
            }
        }
    }

    #[tokio::test]
    async fn a_role_is_not_heard_at_such_length_as_the_supervisor() {
        let longest = |length: usize| "a".repeat(length - 2);
        for (length, heard) in [(MAX_FROM_ROLE, true), (MAX_FROM_ROLE + 1, false)] {
            let message = longest(length);
            let frame = encode(&message).unwrap();
            let came = receive_within::<String>(&mut &frame[..], MAX_FROM_ROLE).await;
            assert_eq!(came.is_ok(), heard, "{length}");
            let came = receive_async::<String>(&mut &frame[..]).await.unwrap();
            assert_eq!(came, Some(message));
        }
    }

    #[test]
    fn the_peers_of_the_longest_policy_fit() {
        use crate::control::{Answer, FromNode};
        use crate::rpc::admin;
        const PEERS: usize = 10_000;
        let text = "x".repeat((4 << 20) / PEERS);
        let peer = admin::Peer {
            name: text,
            id: String::new(),
            addresses: vec![String::new()],
            dial_state: "connected".into(),
            last_error: "x".repeat(200),
            connections_in: u32::MAX,
            connections_out: u32::MAX,
            methods: Some(admin::Methods {
                allowed: vec![String::new()],
            }),
        };
        let answer = FromNode::Answer {
            id: u64::MAX,
            answer: Answer::Peers(vec![peer; PEERS]),
        };
        encode_within(&answer, MAX_FROM_ROLE).unwrap();
    }

    #[test]
    fn descriptors_that_were_cut_off_are_missed() {
        const MOST: usize = 253;
        let (one, other) = UnixStream::pair().unwrap();
        let file = std::io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = vec![file.0.as_fd(); MOST];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let frame = encode(&()).unwrap();
        let bytes = [IoSlice::new(&frame)];
        rustix::net::sendmsg(&one, &bytes, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        assert!(receive_with_descriptors::<()>(&other).is_err());
    }

    #[test]
    fn more_descriptors_than_any_node_needs_are_not_sent() {
        let (one, _other) = UnixStream::pair().unwrap();
        let file = std::io::pipe().unwrap();
        let descriptors = vec![file.0.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(send_with_descriptors(&one, &(), &descriptors).is_err());
    }
}
