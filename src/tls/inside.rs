//! What is spoken inside a connection (RFC 7301).

/// A protocol that peers may agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// HTTP/2 (RFC 9113 §3.2): gRPC clients insist on its name.
    H2,
    /// HTTP/1.1, by its name or without any.
    Http1,
    /// Any bytes, without a name.
    Bytes,
}

pub(super) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

impl Inside {
    /// What to agree on with a client that offers these protocols, or none, where `also` is spoken
    /// beside HTTP/2; with the name that it will have.
    pub(super) fn agreed<'a>(
        offered: Option<impl Iterator<Item = &'a [u8]>>,
        also: Option<Self>,
    ) -> Option<(Self, Option<&'static [u8]>)> {
        let Some(offered) = offered else {
            return also.map(|also| (also, None));
        };
        let offered: Vec<&[u8]> = offered.collect();
        if offered.contains(&H2) {
            return Some((Self::H2, Some(H2)));
        }
        (also == Some(Self::Http1) && offered.contains(&HTTP_1_1))
            .then_some((Self::Http1, Some(HTTP_1_1)))
    }

    /// Its name when we dial.
    pub(super) fn name(self) -> Option<&'static [u8]> {
        match self {
            Self::H2 => Some(H2),
            Self::Http1 => Some(HTTP_1_1),
            Self::Bytes => None,
        }
    }

    /// Its name for logs.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http1 => "http/1.1",
            Self::Bytes => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_agreed_on_that_was_not_configured() {
        let agreed = |offered: Option<&[&'static [u8]]>, also| {
            Inside::agreed(offered.map(|offered| offered.iter().copied()), also)
                .map(|(inside, _)| inside)
        };
        for also in [None, Some(Inside::Http1), Some(Inside::Bytes)] {
            assert_eq!(agreed(Some(&[HTTP_1_1, H2]), also), Some(Inside::H2));
            assert_eq!(agreed(None, also), also);
            assert_eq!(agreed(Some(&[b"http/0.9"]), also), None);
        }
        assert_eq!(agreed(Some(&[HTTP_1_1]), None), None);
        assert_eq!(agreed(Some(&[HTTP_1_1]), Some(Inside::Bytes)), None);
        assert_eq!(
            agreed(Some(&[HTTP_1_1]), Some(Inside::Http1)),
            Some(Inside::Http1)
        );
    }
}
