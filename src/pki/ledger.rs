//! Append-only records, one JSON object a line, that survive a crash in the middle of a line.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::store::{StoreError, failed};

/// The entries of one file. Whoever holds it holds the folder's lock.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    path: PathBuf,
    entries: Vec<T>,
    /// Bytes up to which the file is sound; what is behind is half a line that a crash left, whose
    /// command never answered.
    sound: u64,
    /// The last line is whole but has no newline: an editor took it away.
    open_line: bool,
}

impl<T: Serialize + DeserializeOwned> Ledger<T> {
    /// Reads the whole file. A missing one is an error, as it has been lost: an authority is made
    /// with empty ones.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let bytes = std::fs::read(path).map_err(failed("read", path))?;
        let (mut entries, mut sound, mut open_line) = (Vec::new(), 0, false);
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                Err(_) if !whole => break,
                Err(error) => {
                    return Err(StoreError::Damaged {
                        path: path.to_owned(),
                        line: Some(index + 1),
                        source: error.into(),
                    });
                }
            }
            sound += line.len() as u64;
            open_line = !whole;
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
            sound,
            open_line,
        })
    }

    pub(super) fn entries(&self) -> &[T] {
        &self.entries
    }

    /// Adds an entry; when this returns, it is on disk.
    pub(super) fn push(&mut self, entry: T) -> Result<(), StoreError> {
        let mut line = if self.open_line {
            b"\n".to_vec()
        } else {
            Vec::new()
        };
        serde_json::to_writer(&mut line, &entry).map_err(|error| StoreError::Damaged {
            path: self.path.clone(),
            line: None,
            source: error.into(),
        })?;
        line.push(b'\n');
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&self.path)?;
            file.set_len(self.sound)?;
            file.seek(SeekFrom::Start(self.sound))?;
            file.write_all(&line)?;
            file.sync_all()
        };
        write().map_err(failed("write", &self.path))?;
        self.sound += line.len() as u64;
        self.open_line = false;
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn half_a_line_left_by_a_crash_is_dropped_at_the_next_write() {
        let (_folder, path) = ledger(b"[1]\n[2]\n[3");
        let mut ledger: Ledger<Vec<u32>> = Ledger::open(&path).unwrap();
        assert_eq!(ledger.entries(), [[1], [2]]);
        ledger.push(vec![4]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"[1]\n[2]\n[4]\n");
    }

    #[test]
    fn a_whole_last_line_without_newline_is_kept() {
        let (_folder, path) = ledger(b"[1]\n[2]");
        let mut ledger: Ledger<Vec<u32>> = Ledger::open(&path).unwrap();
        ledger.push(vec![3]).unwrap();
        ledger.push(vec![4]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"[1]\n[2]\n[3]\n[4]\n");
        assert_eq!(
            Ledger::<Vec<u32>>::open(&path).unwrap().entries(),
            [[1], [2], [3], [4]]
        );
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_with_its_number() {
        let (_folder, path) = ledger(b"[1]\n[2\n[3]\n");
        let error = Ledger::<Vec<u32>>::open(&path).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { line: Some(2), .. }),
            "{error:?}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error_and_not_an_empty_record() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Ledger::<Vec<u32>>::open(&folder.path().join("ledger.jsonl")).is_err());
    }
}
