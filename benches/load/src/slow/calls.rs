//! Established calls at a steady rate, timed from a thread of their own, so that what is measured is the
//! node and not the load's other work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::MissedTickBehavior;

use super::figures::Times;
use crate::client::Client;
use crate::peer::PingRequest;
use crate::peer::peer_client::PeerClient;
use crate::rpc::channel;

/// Connections, and calls a second over all of them.
const CONNECTIONS: u32 = 8;
const RATE: u32 = 400;

/// Calls under way until it is dropped.
pub struct Calls {
    times: Arc<Mutex<Times>>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Calls {
    /// Connects, and begins to call.
    pub fn start(client: Client) -> Self {
        let (times, failed, stop) = (Arc::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut calls = Self { times, failed, stop, thread: None };
        let (times, failed, stop) = (Arc::clone(&calls.times), Arc::clone(&calls.failed), Arc::clone(&calls.stop));
        calls.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(call(client, &times, &failed, &stop))
        }));
        calls
    }

    /// What was measured since the last time this was asked, or an error when a call failed.
    pub fn take(&self) -> anyhow::Result<Times> {
        if let Some(error) = lock(&self.failed).first() {
            anyhow::bail!("an established call failed: {error}");
        }
        Ok(std::mem::take(&mut lock(&self.times)))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(std::thread::JoinHandle::join) {
            eprintln!("established calls: {error:#}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn call(
    client: Client,
    times: &Arc<Mutex<Times>>,
    failed: &Arc<Mutex<Vec<String>>>,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(channel(client.clone()).await.context("no connection for calls")?);
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    // A late tick is not made up for: the rate is what is sent, and each call is timed from its sending.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        tick.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        #[expect(clippy::cast_possible_truncation, reason = "fewer than 8")]
        let mut client = PeerClient::new(channels[(number % u64::from(CONNECTIONS)) as usize].clone());
        let (times, failed) = (Arc::clone(times), Arc::clone(failed));
        tokio::spawn(async move {
            let began = Instant::now();
            match client.ping(PingRequest { nonce: number }).await {
                Ok(_) => lock(&times).push(began.elapsed()),
                Err(error) => lock(&failed).push(error.to_string()),
            }
        });
    }
    Ok(())
}
