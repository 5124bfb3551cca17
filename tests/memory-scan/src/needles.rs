//! What is looked for.

use std::collections::{BTreeMap, HashMap};

/// Length of the pieces of a secret that count as a find.
const WINDOW: usize = 8;

/// Every window of every secret, in both byte orders.
pub struct Needles {
    windows: HashMap<[u8; WINDOW], String>,
    /// A bit for each hash of four bytes that a window has at offset 0 … 3: of any eight bytes in a
    /// row, four are aligned, so one look at each aligned word is enough.
    filter: Vec<u64>,
}

/// A piece of a secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Which secret, and whether in reverse.
    pub secret: String,
    /// How many different pieces of it.
    pub windows: usize,
}

impl Needles {
    /// For secrets of at least eight bytes, each with a name.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut needles = Self {
            windows: HashMap::new(),
            filter: vec![0; (1 << 16) / 64],
        };
        for (name, secret) in secrets {
            assert!(
                secret.len() >= WINDOW,
                "{name} is too short to be told from chance"
            );
            let reversed: Vec<u8> = secret.iter().rev().copied().collect();
            for (name, bytes) in [
                (name.to_owned(), secret),
                (format!("{name}, reversed"), &reversed),
            ] {
                for window in bytes.windows(WINDOW) {
                    needles.add(&name, window.try_into().expect("its length"));
                }
            }
        }
        needles
    }

    fn add(&mut self, name: &str, window: [u8; WINDOW]) {
        for offset in 0..4 {
            let word = u32::from_le_bytes(window[offset..offset + 4].try_into().expect("four"));
            let bit = hash(word);
            self.filter[bit / 64] |= 1 << (bit % 64);
        }
        self.windows.insert(window, name.to_owned());
    }

    /// What of it is in `memory`, whose first byte is at an address that is a multiple of four.
    pub fn search(&self, memory: &[u8]) -> Vec<Hit> {
        let mut found: BTreeMap<&str, std::collections::HashSet<[u8; WINDOW]>> = BTreeMap::new();
        for (index, word) in memory.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes(word.try_into().expect("four"));
            if word == 0 {
                continue;
            }
            let bit = hash(word);
            if self.filter[bit / 64] & (1 << (bit % 64)) != 0 {
                self.look_around(memory, index * 4, &mut found);
            }
        }
        let hits = found.into_iter().map(|(secret, windows)| Hit {
            secret: secret.to_owned(),
            windows: windows.len(),
        });
        hits.collect()
    }

    fn look_around<'a>(
        &'a self,
        memory: &[u8],
        place: usize,
        found: &mut BTreeMap<&'a str, std::collections::HashSet<[u8; WINDOW]>>,
    ) {
        for start in place.saturating_sub(3)..=place {
            let Some(window) = memory.get(start..start + WINDOW) else {
                continue;
            };
            let window: [u8; WINDOW] = window.try_into().expect("its length");
            if let Some(name) = self.windows.get(&window) {
                found.entry(name).or_default().insert(window);
            }
        }
    }
}

fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_in_a_row_are_found_at_any_address_in_both_orders_and_seven_are_not() {
        let secret: Vec<u8> = (1..=32).map(|byte| byte * 7).collect();
        let needles = Needles::new([("it", secret.as_slice())]);
        for reverse in [false, true] {
            let mut bytes = secret.clone();
            if reverse {
                bytes.reverse();
            }
            for address in 0..40 {
                for start in 0..=24 {
                    let mut memory = vec![0; 80];
                    memory[address..address + 8].copy_from_slice(&bytes[start..start + 8]);
                    let hits = needles.search(&memory);
                    assert_eq!(hits.len(), 1, "{address} {start}");
                    assert_eq!(hits[0].secret.ends_with("reversed"), reverse);
                    memory[address + 7] ^= 1;
                    assert_eq!(needles.search(&memory), []);
                }
            }
        }
    }
}
