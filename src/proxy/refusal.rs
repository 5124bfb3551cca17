//! Why a call is not passed on, in the words of the caller's protocol.

use std::fmt::Write;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tonic::body::Body;

/// A call that we answer ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// gRPC status code.
    pub(crate) code: Code,
    /// What the caller is told. It names nothing that a peer must not know.
    pub(crate) message: String,
}

/// The gRPC status codes (grpc/doc/statuscodes.md) that we give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    /// [`Self::ResourceExhausted`] too; HTTP has a status of its own for it.
    HeaderListTooLarge,
    /// And for that of an answer.
    AnswerTooLarge,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    fn number(self) -> u16 {
        match self {
            Self::HeaderListTooLarge | Self::AnswerTooLarge => Self::ResourceExhausted.number(),
            code => code as u16,
        }
    }
}

impl Refusal {
    /// The caller may try again: nobody has seen the call.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: Code::Unavailable,
            message: message.into(),
        }
    }

    /// A way through to somewhere else (RFC 9110 §9.3.6), which nobody here offers.
    pub(super) fn connect() -> Self {
        Self {
            code: Code::Unimplemented,
            message: "CONNECT is not passed on".into(),
        }
    }

    /// Two readers of several would hear two different ones (RFC 9112 §3.2).
    pub(super) fn hosts() -> Self {
        Self {
            code: Code::InvalidArgument,
            message: "a request needs one Host header, and no more".into(),
        }
    }

    /// Trailers of a gRPC response (grpc/doc/PROTOCOL-HTTP2.md, Trailers).
    pub(super) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code.number()));
        if let Ok(message) = percent_encoded(&self.message).parse() {
            trailers.insert("grpc-message", message);
        }
        trailers
    }

    /// Answers with it: a gRPC caller with a response of trailers only, another with an HTTP status.
    /// A caller that is gone does not hear it.
    pub(super) fn answer(&self, respond: &mut SendResponse<Bytes>, grpc: bool) {
        let sent = respond.send_response(self.head(grpc), grpc);
        if let (Ok(mut body), false) = (sent, grpc) {
            let _ = body.send_data(Bytes::from(self.text()), true);
        }
    }

    /// The same where hyper answers.
    pub(super) fn response(&self, grpc: bool) -> Response<Body> {
        let body = match grpc {
            true => Body::empty(),
            false => Body::new(self.text()),
        };
        self.head(grpc).map(|()| body)
    }

    fn text(&self) -> String {
        format!("{}\n", self.message)
    }

    fn head(&self, grpc: bool) -> Response<()> {
        let mut response = Response::new(());
        if grpc {
            *response.headers_mut() = self.trailers();
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            return response;
        }
        *response.status_mut() = match self.code {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
            Code::HeaderListTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::Unimplemented => StatusCode::NOT_FOUND,
            Code::Internal | Code::AnswerTooLarge => StatusCode::BAD_GATEWAY,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        response
    }
}

/// Percent-encoding of `grpc-message`: all but printable ASCII without `%`.
fn percent_encoded(message: &str) -> String {
    message.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'%' | ..0x20 | 0x7f.. => {
                let _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
        text
    })
}

/// Whether a request is a gRPC one.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_encoded_as_grpc_wants_it() {
        assert_eq!(percent_encoded("100 % of ä\n"), "100 %25 of %C3%A4%0A");
        let trailers = Refusal::unavailable("no way in").trailers();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "no way in");
    }
}
