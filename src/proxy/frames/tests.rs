use super::*;

/// Behind the preface.
fn begun() -> Frames {
    let mut frames = Frames::new(PREFACE, Instant::now());
    frames.take(&mut [0; PREFACE]).unwrap();
    frames
}

fn frame(kind: u8, length: u8) -> Vec<u8> {
    let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
    frame.resize(FRAME_HEAD + usize::from(length), 0xff);
    frame
}

#[test]
fn a_flood_ends_the_connection_however_it_is_cut() {
    for kind in [0x2, 0x4, 0x6, 0xfa] {
        for cut in [1, 7, 1000] {
            let mut frames = Frames::new(PREFACE, Instant::now());
            frames.idle.refilled += Duration::from_secs(3600);
            let mut flood: Vec<u8> = [vec![0; PREFACE], frame(kind, 8).repeat(1001)].concat();
            let passed = flood
                .chunks_mut(cut)
                .map(|piece| frames.take(piece))
                .take_while(Result::is_ok)
                .count();
            // The whole head of the last frame, and not one byte before.
            assert_eq!(passed, (PREFACE + 1000 * 17 + 8) / cut, "{kind} {cut}");
        }
    }
}

/// Far in the future: nothing is forgiven for the time that the test takes.
fn unforgiving() -> Frames {
    let mut frames = begun();
    frames.idle.refilled += Duration::from_secs(3600);
    frames.resets.refilled += Duration::from_secs(3600);
    frames
}

#[test]
fn a_header_block_has_an_end_and_frames_of_who_is_trusted_cost_nothing() {
    let mut frames = begun();
    frames.bound(600);
    frames.trust();
    let whole = [frame(HEADERS, 200), frame(CONTINUATION, 200).repeat(2)].concat();
    for _ in 0..2000 {
        frames.take(&mut frame(0x6, 8).repeat(10)).unwrap();
        frames.take(&mut whole.clone()).unwrap();
    }
    let error = frames.take(&mut frame(CONTINUATION, 1)).unwrap_err();
    assert!(error.to_string().contains("limits.header_list_bytes"));
}

#[test]
fn calls_are_never_a_flood() {
    let mut frames = unforgiving();
    for kind in [0x0, 0x1, 0x8, 0x9] {
        frames.take(&mut frame(kind, 200).repeat(9000)).unwrap();
    }
}

#[test]
fn a_ping_a_round_trip_is_no_flood_whoever_sends_the_data() {
    let (ping, ack) = (frame(0x6, 8), 17);
    let mut frames = unforgiving();
    for _ in 0..20_000 {
        frames
            .take(&mut [frame(DATA, 1), ping.clone()].concat())
            .unwrap();
        frames.sent(ack);
    }
    let mut frames = unforgiving();
    for _ in 0..20_000 {
        // The shortest message of gRPC in a frame.
        frames.sent(ack + FRAME_HEAD + 5);
        frames.take(&mut ping.clone()).unwrap();
    }
    // The answers to PINGs alone do not pay for them, nor do empty frames.
    let mut frames = unforgiving();
    let flood = [ping.clone(), frame(DATA, 0)].concat();
    let passed = (0..20_000).take_while(|_| {
        frames.sent(ack);
        frames.take(&mut flood.clone()).is_ok()
    });
    assert!(passed.count() < 6_000);
}

#[test]
fn window_updates_are_a_flood_beyond_what_was_sent() {
    let mut update = frame(WINDOW_UPDATE, 4);
    let mut left = |frames: &mut Frames| {
        let all = (0..2 * MOST_OWED).map(|_| frames.take(&mut update));
        all.take_while(Result::is_ok).count()
    };
    let mut frames = begun();
    // The shortest DATA frame in a write of its own, taken by two updates.
    for _ in 0..100_000 {
        frames.sent(FRAME_HEAD + 1);
        frames.take(&mut frame(WINDOW_UPDATE, 4).repeat(2)).unwrap();
    }
    assert_eq!(left(&mut frames), 10_000);
    frames.sent(usize::MAX);
    assert_eq!(left(&mut frames), 1_000_000);
}

#[test]
fn calls_that_are_taken_back_are_a_flood_when_hardly_any_other_comes() {
    let call = |reset: bool| match reset {
        true => [frame(HEADERS, 30), frame(DATA, 9), frame(RST_STREAM, 4)].concat(),
        false => [frame(HEADERS, 30), frame(DATA, 9)].concat(),
    };
    let calls = |one_in: usize| {
        let mut frames = unforgiving();
        let calls = (0..50_000).map(|number| call(number % one_in == 0));
        let all = calls.map(|mut call| frames.take(&mut call));
        all.take_while(Result::is_ok).count()
    };
    assert_eq!(calls(2), 50_000);
    assert!(calls(1) <= 10_000);
}

#[test]
fn authorities_are_mended_behind_padding_and_priority() {
    let block = [&[0x41, 3][..], b"a/b"].concat();
    let headers = |flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, HEADERS, flags, 0, 0, 0, 1][..], payload].concat()
    };
    let plain = headers(0, &block);
    let both = headers(
        PADDED | PRIORITY,
        &[&[4][..], &[0x41, 1, 0x41, 1, b'/'], &block, b"////"].concat(),
    );
    let cut_in_two = [headers(0, &block[..3]), {
        let mut rest = headers(0, &block[3..]);
        rest[3] = CONTINUATION;
        rest
    }]
    .concat();
    for sent in [plain, both, cut_in_two] {
        let mut expected = sent.clone();
        let slash = sent.windows(2).rposition(|pair| pair == b"a/");
        let slash = slash.unwrap_or(sent.len() - 3 - FRAME_HEAD - 2);
        let at = expected
            .iter()
            .enumerate()
            .position(|(at, byte)| *byte == b'/' && at > slash)
            .unwrap();
        expected[at] = b'-';
        for cut in [1, 4, 1000] {
            let mut frames = begun();
            frames.mend();
            let mut got = sent.clone();
            for piece in got.chunks_mut(cut) {
                frames.take(piece).unwrap();
            }
            assert_eq!(got, expected);
        }
    }
}
