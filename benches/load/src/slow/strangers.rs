//! Strangers: connections from addresses that nobody lists, which never finish a handshake.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// Connections under way at once when they begin, from so many addresses.
const AT_ONCE: u32 = 64;
const ADDRESSES: u32 = 2000;
/// One in so many sends a ClientHello, which would cost the node a signature each; the others are silent.
const SPEAKERS: u32 = 2;

/// Opens `count` connections, evenly over `time`, and holds each until the node closes it; a new one
/// takes the place of none.
pub fn start(to: SocketAddr, count: u32, time: Duration, opened: &Arc<AtomicU64>) -> anyhow::Result<JoinSet<()>> {
    let mut all = JoinSet::new();
    let hello = Arc::new(hello()?);
    for lane in 0..AT_ONCE {
        let (hello, opened) = (Arc::clone(&hello), Arc::clone(opened));
        all.spawn(async move {
            let mut held = JoinSet::new();
            let share = count / AT_ONCE + u32::from(lane < count % AT_ONCE);
            let mut tick = tokio::time::interval(time / share.max(1));
            for round in 0..share {
                tick.tick().await;
                let number = round * AT_ONCE + lane;
                let hello = (number % SPEAKERS == 0).then(|| Arc::clone(&hello));
                let opened = Arc::clone(&opened);
                held.spawn(async move {
                    let _ = hold(address(number % ADDRESSES), to, hello.as_deref(), &opened).await;
                });
            }
            held.join_all().await;
        });
    }
    Ok(all)
}

async fn hold(from: Ipv4Addr, to: SocketAddr, hello: Option<&Vec<u8>>, opened: &AtomicU64) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    let mut tcp = socket.connect(to).await?;
    opened.fetch_add(1, Ordering::Relaxed);
    if let Some(hello) = hello {
        tcp.write_all(hello).await?;
    }
    let mut answer = [0; 4096];
    while tcp.read(&mut answer).await? > 0 {}
    Ok(())
}

/// 127.77.0.0/16: on the loopback, and no peer's.
fn address(number: u32) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// What a client of rustls says first.
fn hello() -> anyhow::Result<Vec<u8>> {
    let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::IpAddress(std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into());
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello)?;
    }
    Ok(hello)
}
