//! Where the node listens: for peers, and for scrapers of metrics.

use std::net::SocketAddr;

use toml::Spanned;

use super::Reader;
use crate::fault::Fault;

/// One more than this and somebody makes a mistake.
const MOST_LISTENERS: usize = 16;

impl Reader<'_> {
    pub(super) fn listen(&mut self, addresses: &Spanned<Vec<Spanned<String>>>) -> Vec<SocketAddr> {
        let mend = "such as \"0.0.0.0:7443\"";
        let count = addresses.get_ref().len();
        if count == 0 || count > MOST_LISTENERS {
            self.fault(
                addresses,
                Fault::new(
                    "listen",
                    format!("names {count} addresses"),
                    format!("one to {MOST_LISTENERS}, {mend}"),
                ),
            );
        }
        let mut found = Vec::new();
        for (index, address) in addresses.get_ref().iter().enumerate() {
            let key = format!("listen[{index}]");
            let Some(parsed) = self.parse::<SocketAddr>(address, &key, mend) else {
                continue;
            };
            if parsed.port() == 0 {
                let fault = Fault::new(key, "has no port that a peer could name", mend);
                self.fault(address, fault);
            } else if found.contains(&parsed) {
                let fault = Fault::new(key, "is named twice", "name each address once");
                self.fault(address, fault);
            } else {
                found.push(parsed);
            }
        }
        found
    }

    pub(super) fn metrics(&mut self, address: &Spanned<String>) -> Option<SocketAddr> {
        let mend = "a loopback address, such as \"127.0.0.1:9464\"; from elsewhere, scrape through the tunnel or agent that you trust";
        let found = self.parse::<SocketAddr>(address, "metrics", mend)?;
        if !found.ip().to_canonical().is_loopback() {
            self.fault(
                address,
                Fault::new(
                    "metrics",
                    "is not a loopback address: metrics are not authenticated",
                    mend,
                ),
            );
        }
        Some(found)
    }
}
