//! Values in the place of missing ones. A reader stops at the first key that is missing; with something there
//! it goes on to the next. What was read so is never used but to look for further faults.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Step, table_at};

/// One of these is what any key of ours takes.
const KINDS: &str = "text = ''\nlist = []\ntable = {}\nnumber = 1\nfact = false\n";

/// The values that were put somewhere, each with a span of its own behind the end of the text.
pub(super) struct StandIns {
    kinds: Vec<DeValue<'static>>,
    /// Where each stands, and how many kinds were tried there.
    placed: Vec<(Vec<Step>, usize)>,
    /// Bytes of the text.
    end: usize,
}

impl StandIns {
    pub(super) fn new(end: usize) -> Self {
        let (kinds, _) = DeTable::parse_recoverable(KINDS);
        let kinds = kinds.into_inner().into_iter();
        Self {
            kinds: kinds.map(|(_, value)| value.into_inner()).collect(),
            placed: Vec::new(),
            end,
        }
    }

    /// Whether `path` is the place of one, or in one.
    pub(super) fn hold(&self, path: &[Step]) -> bool {
        self.placed.iter().any(|(place, _)| path.starts_with(place))
    }

    /// Puts something at `path`, or something else when it stands there already; false when nothing is left to
    /// try.
    pub(super) fn put(&mut self, table: &mut DeTable<'_>, path: &[Step]) -> bool {
        let known = self.placed.iter().position(|(place, _)| place == path);
        let index = known.unwrap_or_else(|| {
            self.placed.push((path.to_vec(), 0));
            self.placed.len() - 1
        });
        let tried = &mut self.placed[index].1;
        let (Some(value), Some((Step::Key(name), parents))) =
            (self.kinds.get(*tried).cloned(), path.split_last())
        else {
            return false;
        };
        *tried += 1;
        let Some(place) = table_at(table, parents) else {
            return false;
        };
        let at = self.end + 1 + index;
        let name = Spanned::new(at..at, Cow::Owned(name.clone()));
        place.insert(name, Spanned::new(at..at, value));
        true
    }
}
