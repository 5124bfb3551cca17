//! How large a header list may be (RFC 9113 §6.5.2), counted where it is passed on. h2 answers a call beyond its
//! own bound with what is no answer to gRPC, and cuts trailers off there in silence. So its bound is above ours, by
//! so much that what it leaves of a list is still too large for us.

use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Uri};

use super::{Code, Refusal};
use crate::config::{size, size32};
use crate::telemetry::Lines;

/// What a field costs beside its name and value (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// The longest code of a byte has 30 bits (RFC 7541 appendix B), and h2's own encoder uses them always: a list
/// may need so many times its bytes on the wire. A longer block ends the connection.
const LONGEST_CODE: u64 = 4;
/// The shortest code has 5 bits, so the one field with which h2 begins to cut has at most 8/5 of the bytes of such
/// a block, and may have its name from the table (4096 bytes): with these on top of our bound, what is left is
/// above it. h2 ends the connection for four times as much.
const ABOVE: (u64, u64) = (8, 8 << 10);
/// Different names: a [`HeaderMap`] has room for 24576, and h2 cuts there too.
const MOST_NAMES: usize = 24_000;

/// The bound of one list, `limits.header_list_bytes`.
#[derive(Debug)]
pub(super) struct HeaderLists {
    most: u64,
    lines: Lines,
}

impl HeaderLists {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            lines: Lines::default(),
        }
    }

    /// The bound, as we announce it.
    pub(super) fn most(&self) -> u32 {
        size32(self.most)
    }

    /// The bound for h2.
    pub(super) fn decoded(&self) -> u32 {
        let (times, more) = ABOVE;
        size32(self.most * times + more)
    }

    /// The most bytes of a header block on the wire.
    pub(super) fn encoded(&self) -> usize {
        size(self.most * LONGEST_CODE)
    }

    /// # Errors
    /// The head of a request is too large.
    pub(super) fn request(&self, head: &Parts) -> Result<(), Refusal> {
        let pseudo = of(":method", head.method.as_str().len()) + of_uri(&head.uri);
        self.check(&head.headers, pseudo, "request")
    }

    /// # Errors
    /// The head of an answer is too large.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check(headers, of(":status", 3), "answer")
    }

    /// # Errors
    /// The trailers are too large.
    pub(super) fn trailers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.check(headers, 0, "trailers")
    }

    fn check(&self, headers: &HeaderMap, pseudo: usize, of: &'static str) -> Result<(), Refusal> {
        let bytes = pseudo + of_fields(headers);
        if bytes <= size(self.most) && headers.keys_len() <= MOST_NAMES {
            return Ok(());
        }
        if let Some(unlogged) = self.lines.take(Instant::now()) {
            tracing::warn!(
                of,
                bytes,
                most = self.most,
                unlogged,
                "a header list is larger than limits.header_list_bytes, and its call was ended"
            );
        }
        let message = match of {
            "trailers" => "the trailers are too large (limits.header_list_bytes)".into(),
            _ => format!("the headers of the {of} are too large (limits.header_list_bytes)"),
        };
        let code = match of {
            "request" => Code::HeaderListTooLarge,
            _ => Code::AnswerTooLarge,
        };
        Err(Refusal { code, message })
    }
}

fn of(name: &str, value: usize) -> usize {
    name.len() + value + FIELD
}

fn of_fields(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| of(name.as_str(), value.len()))
        .sum()
}

fn of_uri(uri: &Uri) -> usize {
    let part = |name, text: Option<&str>| text.map_or(0, |text| of(name, text.len()));
    part(":scheme", uri.scheme_str())
        + part(
            ":authority",
            uri.authority().map(http::uri::Authority::as_str),
        )
        + part(
            ":path",
            uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(count: usize, value: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            headers.append("x-field", "v".repeat(value).parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_list_is_counted_as_the_standard_says() {
        let lists = HeaderLists::new(1024);
        // 8 fields of 7, 89 and 32 bytes.
        assert_eq!(lists.trailers(&fields(8, 89)), Ok(()));
        let refusal = lists.trailers(&fields(8, 90)).unwrap_err();
        assert_eq!(refusal.code, Code::AnswerTooLarge);
        assert!(refusal.message.contains("limits.header_list_bytes"));
        // ":status" and its value are 42 more.
        assert_eq!(lists.answer(&fields(8, 83)), Ok(()));
        assert!(lists.answer(&fields(8, 84)).is_err());
        let request = |path: usize| {
            let uri = format!("http://host/{}", "p".repeat(path));
            http::Request::get(uri).body(()).unwrap().into_parts().0
        };
        // ":method: GET", ":scheme: http", ":authority: host" and ":path: /".
        let pseudo = 42 + 43 + 46 + 38;
        assert_eq!(lists.request(&request(1024 - pseudo)), Ok(()));
        assert!(lists.request(&request(1024 - pseudo + 1)).is_err());
    }

    #[test]
    fn what_h2_leaves_of_a_list_that_it_cuts_is_above_our_bound() {
        for most in [1024, 16_384, 1_048_576] {
            let lists = HeaderLists::new(most);
            let longest_field = lists.encoded() * 8 / 5 + 4096 + FIELD;
            assert!(size(lists.decoded().into()) - longest_field > size(most));
        }
    }
}
