//! TOML to a `Spec`, with every fault placed at its key and line and never with the value that
//! caused it: a mistyped key may hold a secret, and a parser's own message prints the whole line.

mod stand_in;

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::Fault;
use stand_in::StandIns;

/// Enough to mend a file in one go; a file with more faults than this is another kind of file.
const MOST_FAULTS: usize = 50;

/// Reads `text` as a `T`. `file` names it in the faults.
///
/// `T` should use `deny_unknown_fields` and `toml::Spanned` (whose spans [`line_of`] turns into
/// lines). Syntax errors are reported first and alone; then unknown keys, values of the wrong type
/// and missing keys together.
///
/// # Errors
/// Every fault found, in the order of the lines.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    match parse_collecting(text, file, &mut faults) {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => Err(faults),
    }
}

/// As [`parse`], but faults are added to `faults`, and what is left of `T` is returned so that a caller can
/// look for further faults, when the text is TOML: without the entries at fault, with those under a
/// misspelt key as if it were spelt well, and with something in the place of each missing key, which
/// [`is_in_text`] tells from the rest.
pub fn parse_collecting<T: DeserializeOwned>(
    text: &str,
    file: &str,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let known = faults.len();
    let spec = read(text, file, faults);
    faults[known..].sort_by_key(|fault| fault.line);
    spec
}

fn read<T: DeserializeOwned>(text: &str, file: &str, faults: &mut Vec<Fault>) -> Option<T> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        let syntax = syntax.iter().take(MOST_FAULTS);
        faults.extend(syntax.map(|error| syntax_fault(error, text, file)));
        return None;
    }
    let (span, mut table) = (document.span(), document.into_inner());
    let mut stand_ins = StandIns::new(text.len());
    loop {
        let attempt = Spanned::new(span.clone(), table.clone());
        let error = match T::deserialize(toml::de::Deserializer::from(attempt)) {
            Ok(spec) => return Some(spec),
            Err(error) => error,
        };
        let mut path = error
            .span()
            .map(|span| path_of(&table, &span))
            .unwrap_or_default();
        let missing = missing_field(error.message());
        if let Some(name) = &missing {
            path.push(Step::Key(name.clone()));
        }
        if !stand_ins.hold(&path) {
            let fault = said(error.message(), &path, &table)
                .in_file(file)
                .at_line(error.span().map_or(1, |span| line_of(text, span.start)));
            // A key that was taken out because of its value is then missed: one fault, not two.
            let known = |known: &Fault| {
                known.key == fault.key || known.key.starts_with(&format!("{}[", fault.key))
            };
            if missing.is_none() || !faults.iter().any(known) {
                faults.push(fault);
            }
        }
        let goes_on = if missing.is_some() || stand_ins.hold(&path) {
            stand_ins.put(&mut table, &path)
        } else {
            spell(&mut table, &path, error.message()) || take_out(&mut table, &path)
        };
        if !goes_on || faults.len() >= MOST_FAULTS {
            return None;
        }
    }
}

/// The name in serde's words for a field that is missing.
fn missing_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("missing field ")?;
    quoted(rest).pop()
}

/// The name in serde's words for a field that is unknown, and those that are known there.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let mut names = quoted(message.strip_prefix("unknown field ")?).into_iter();
    Some((names.next()?, names.collect()))
}

fn quoted(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// Whether what begins at `offset` was read in `text`, and does not stand in for a missing key.
pub fn is_in_text(text: &str, offset: usize) -> bool {
    offset <= text.len()
}

/// The line, counted from 1, of the byte at `offset` in `text`.
pub fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Gives `fault` its place in `file`, whose text is `text`, when it has none and its key
/// (`token[0].pin`), or what that key stands in, is there.
#[must_use]
pub fn placed(fault: Fault, text: &str, file: &str) -> Fault {
    let (document, _) = DeTable::parse_recoverable(text);
    match offset_of(document.get_ref(), &fault.key) {
        Some(offset) if fault.file.is_none() => fault.in_file(file).at_line(line_of(text, offset)),
        _ => fault,
    }
}

/// Where the deepest entry on the way of `key` begins.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let mut found = None;
    let mut place = Some(table);
    for segment in key.split('.') {
        let (name, index) = segment.split_once('[').unwrap_or((segment, ""));
        let Some(mut value) = place.and_then(|table| table.get(name)) else {
            break;
        };
        if let Ok(index) = index.trim_end_matches(']').parse::<usize>()
            && let DeValue::Array(array) = value.get_ref()
        {
            let Some(element) = array.get(index) else {
                break;
            };
            value = element;
        }
        found = Some(value.span().start);
        place = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        };
    }
    found
}

/// The entry of `known` that `word` is most likely a misspelling of.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

fn syntax_fault(error: &toml::de::Error, text: &str, file: &str) -> Fault {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    Fault::new(
        "",
        format!("not TOML: {}", error.message()),
        "see https://toml.io/en/v1.0.0",
    )
    .in_file(file)
    .at_line(line)
}

/// One step from the document to the place of an error.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The deepest entry whose key or value has exactly this span.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Vec<Step> {
    for (key, value) in table {
        let step = || Step::Key(key.get_ref().to_string());
        if let Some(mut rest) = path_in(value, span) {
            rest.insert(0, step());
            return rest;
        }
        if key.span() == *span {
            return vec![step()];
        }
    }
    Vec::new()
}

fn path_in(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<Vec<Step>> {
    let deeper = match value.get_ref() {
        DeValue::Table(table) => Some(path_of(table, span)).filter(|path| !path.is_empty()),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, element)| {
            let mut rest = path_in(element, span)?;
            rest.insert(0, Step::Index(index));
            Some(rest)
        }),
        _ => None,
    };
    deeper.or_else(|| (value.span() == *span).then(Vec::new))
}

/// Gives the unknown key at `path` the name of the known one that it is most likely meant to be; false when
/// `message` knows none, or that one is there.
fn spell(table: &mut DeTable<'_>, path: &[Step], message: &str) -> bool {
    let Some((word, known)) = unknown_field(message) else {
        return false;
    };
    let (Some(near), Some((Step::Key(_), parents))) = (
        nearest(&word, known.iter().map(String::as_str)),
        path.split_last(),
    ) else {
        return false;
    };
    let Some(table) = table_at(table, parents).filter(|table| !table.contains_key(near)) else {
        return false;
    };
    let Some((key, value)) = table.remove_entry(word.as_str()) else {
        return false;
    };
    table.insert(Spanned::new(key.span(), near.to_owned().into()), value);
    true
}

/// Removes the last named entry of `path`; false when there is none.
fn take_out(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    let Some(last) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else {
        return false;
    };
    let (table, Some(Step::Key(name))) = (table_at(table, &path[..last]), path.get(last)) else {
        return false;
    };
    table.is_some_and(|table| table.remove(name.as_str()).is_some())
}

/// The table at `path`.
fn table_at<'a, 'i>(table: &'a mut DeTable<'i>, path: &[Step]) -> Option<&'a mut DeTable<'i>> {
    let Some((first, rest)) = path.split_first() else {
        return Some(table);
    };
    let Step::Key(first) = first else {
        return None;
    };
    let mut place = table.get_mut(first.as_str())?;
    for step in rest {
        place = match (place.get_mut(), step) {
            (DeValue::Table(table), Step::Key(key)) => table.get_mut(key.as_str())?,
            (DeValue::Array(array), Step::Index(index)) => array.get_mut(*index)?,
            _ => return None,
        };
    }
    match place.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// serde's message in our words, without the value in it.
fn said(message: &str, path: &[Step], table: &DeTable<'_>) -> Fault {
    let key = written(path);
    if let Some((word, known)) = unknown_field(message) {
        let mend = match nearest(&word, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        return Fault::new(key, "unknown key", mend);
    }
    if missing_field(message).is_some() {
        return Fault::new(key, "is missing", "add it");
    }
    if let Some((_, expected)) = message.rsplit_once(", expected ") {
        let what = kind_at(table, path).map_or_else(
            || "not acceptable here".to_owned(),
            |kind| format!("not acceptable here (found: {kind})"),
        );
        return Fault::new(key, what, format!("expected {}", in_words(expected)));
    }
    // Anything else may quote the value.
    Fault::new(key, "not acceptable here", "see the manual for this key")
}

/// What serde calls by its Rust name.
fn in_words(expected: &str) -> String {
    let most = match expected {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "i64" | "u64" => return "a whole number".to_owned(),
        other => return other.to_owned(),
    };
    format!("a whole number from 0 to {most}")
}

fn kind_at(table: &DeTable<'_>, path: &[Step]) -> Option<&'static str> {
    let Some((Step::Key(first), rest)) = path.split_first() else {
        return None;
    };
    let mut place = table.get(first.as_str())?;
    for step in rest {
        place = match (place.get_ref(), step) {
            (DeValue::Table(table), Step::Key(key)) => table.get(key.as_str())?,
            (DeValue::Array(array), Step::Index(index)) => array.get(*index)?,
            _ => return None,
        };
    }
    Some(place.get_ref().type_str())
}

#[cfg(test)]
mod tests;
