//! Text that somebody else wrote, made fit to be shown: what a terminal or a protocol of lines would take for
//! more than text is replaced.

/// One line.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|c| replaced(c, &[])).collect()
}

/// Several lines, with tabs.
pub(crate) fn lines(text: &str) -> String {
    text.chars().map(|c| replaced(c, &['\n', '\t'])).collect()
}

fn replaced(character: char, kept: &[char]) -> char {
    match character.is_control() && !kept.contains(&character) {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_seen_and_does_nothing() {
        let text = "a\tb\nMAINPID=1\r\x1b[2J\u{9b}31m\0 ü";
        assert_eq!(
            line(text),
            "a\u{fffd}b\u{fffd}MAINPID=1\u{fffd}\u{fffd}[2J\u{fffd}31m\u{fffd} ü"
        );
        assert_eq!(
            lines(text),
            "a\tb\nMAINPID=1\u{fffd}\u{fffd}[2J\u{fffd}31m\u{fffd} ü"
        );
    }
}
