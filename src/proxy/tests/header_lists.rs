//! Header lists around the bounds: ours, and that of h2, which does not say what it cuts off.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{HEADERS, Proxied, SETTINGS, call, caller, frame, proxied, read_call, status};
use crate::config::Limits;

/// Of so many fields with values of this length.
fn list(count: usize, value: usize) -> HeaderMap {
    let fields = (0..count).map(|number| {
        let name = HeaderName::try_from(format!("x-{number:04}")).unwrap();
        (name, HeaderValue::try_from("v".repeat(value)).unwrap())
    });
    fields.collect()
}

/// 125 fields of 100 bytes are more than 16 KiB, and so is one. A block of 64 KiB on the wire ends the connection.
fn too_large() -> [(HeaderMap, bool); 3] {
    [
        (list(125, 100), false),
        (list(1, 60_000), false),
        (list(1, 100_000), true),
    ]
}

/// An application that answers each call with these fields in its head and in its trailers.
fn answers(proxied: &mut Proxied, head: HeaderMap, trailers: HeaderMap) {
    let (_, empty) = tokio::sync::mpsc::unbounded_channel();
    let mut dialled = std::mem::replace(&mut proxied.dialled, empty);
    tokio::spawn(async move {
        let Some(application) = dialled.recv().await else {
            return;
        };
        let mut connection = h2::server::handshake(application).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut response = Response::new(());
            *response.headers_mut() = head.clone();
            let Ok(mut body) = respond.send_response(response, false) else {
                continue;
            };
            let _ = body.send_data(Bytes::from_static(b"data"), false);
            let _ = body.send_trailers(trailers.clone());
        }
    });
}

/// What the caller hears in the end of a call with these fields in its head and in its trailers.
async fn ask(
    proxied: Proxied,
    head: HeaderMap,
    trailers: HeaderMap,
) -> Result<HeaderMap, h2::Error> {
    let mut send = caller(proxied.caller, 65_535).await;
    let mut request = call();
    request.headers_mut().extend(head);
    let (answer, mut body) = send.send_request(request, false).unwrap();
    let _ = body.send_trailers(trailers);
    let (head, mut body) = answer.await?.into_parts();
    if head.headers.contains_key("grpc-status") {
        return Ok(head.headers);
    }
    while let Some(data) = body.data().await {
        data?;
    }
    Ok(body.trailers().await?.unwrap())
}

fn well() -> HeaderMap {
    HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )])
}

#[tokio::test]
async fn a_list_that_is_too_large_ends_its_call_with_the_reason_wherever_it_comes_from() {
    for (large, ends_connection) in too_large() {
        for place in 0..4 {
            let none = HeaderMap::new;
            let mut proxied = proxied(&Limits::default());
            let mut lists = [none(), none(), none(), well()];
            lists[place].extend(large.clone());
            let [asks, asks_last, answers_first, answers_last] = lists;
            answers(&mut proxied, answers_first, answers_last);
            match ask(proxied, asks, asks_last).await {
                Err(error) => assert!(ends_connection && place < 2, "{place} {error}"),
                Ok(heard) => {
                    let (code, message) = status(&heard);
                    let expected = if ends_connection { "14" } else { "8" };
                    assert_eq!(code, expected, "{message}");
                    assert!(message.contains("limits.header_list_bytes"), "{message}");
                }
            }
        }
    }
}

/// 800 fields of 250 bytes from the table (RFC 7541 §6.1) are more than h2 reads of a list.
#[tokio::test]
async fn what_h2_cuts_off_is_not_passed_on_as_if_it_were_all() {
    let long = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [0, length[0], length[1], kind, flags, 0, 0, 0, 1];
        [&head[..], payload].concat()
    };
    // Literal with indexing, "x" and 250 bytes; then the newest of the table.
    let field = [&[0x40, 1, b'x', 0x7f, 123][..], &[b'v'; 250]].concat();
    let bomb = [&field[..], &[0xbe; 800]].concat();
    // :status 200; END_HEADERS is 4, and END_STREAM 1.
    let head = |fields: &[u8]| long(HEADERS, 4, &[&[0x88], fields].concat());
    for (answer, code) in [
        ([head(&[]), long(HEADERS, 5, &bomb)].concat(), "8"),
        (head(&bomb), "13"),
    ] {
        let mut proxied = proxied(&Limits::default());
        let mut send = caller(proxied.caller, 65_535).await;
        let (heard, _) = send.send_request(call(), true).unwrap();
        let mut application = proxied.dialled.recv().await.unwrap();
        read_call(&mut application).await;
        application.write_all(&answer).await.unwrap();
        let (head, mut body) = heard.await.unwrap().into_parts();
        let heard = match head.headers.is_empty() {
            true => body.trailers().await.unwrap().unwrap(),
            false => head.headers,
        };
        let (heard, message) = status(&heard);
        assert_eq!(heard, code);
        assert!(message.contains("limits.header_list_bytes"), "{message}");
    }
}

#[tokio::test]
async fn a_list_up_to_the_bound_arrives_whole() {
    let fits = list(110, 100);
    let mut proxied = proxied(&Limits::default());
    let mut last = well();
    last.extend(fits.clone());
    answers(&mut proxied, fits.clone(), last.clone());
    assert_eq!(ask(proxied, fits.clone(), fits).await.unwrap(), last);
}

/// The first frame, behind so many other bytes.
async fn list_size_told(stream: &mut DuplexStream, before: usize) -> u32 {
    stream.read_exact(&mut vec![0; before]).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let told = settings.chunks(6).find(|entry| entry[1] == 6).unwrap();
    u32::from_be_bytes(told[2..].try_into().unwrap())
}

#[tokio::test]
async fn the_bound_is_told_to_both_sides() {
    let mut proxied = proxied(&Limits::default());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    proxied.caller.write_all(preface).await.unwrap();
    assert_eq!(list_size_told(&mut proxied.caller, 0).await, 16_384);
    // :method POST, :scheme http and :path / (RFC 7541 appendix A).
    let mut call = frame(HEADERS, 1, &[0x83, 0x86, 0x84]);
    call[4] = 5;
    let begin = [frame(SETTINGS, 0, b""), call].concat();
    proxied.caller.write_all(&begin).await.unwrap();
    let mut application = proxied.dialled.recv().await.unwrap();
    assert_eq!(
        list_size_told(&mut application, preface.len()).await,
        16_384
    );
}
