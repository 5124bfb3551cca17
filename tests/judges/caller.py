"""An application that calls a peer through its node: grpcio, plaintext, to the place that the first
argument names. Prints one line for each call.

    caller.py PLACE ACTION [CA CERTIFICATE KEY]     with the files: a peer itself, by mutual TLS"""

import hashlib
import os
import sys
import threading
import time

import grpc


def main():
    place, action = sys.argv[1:3]
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if os.environ.get("grpc_proxy"):
        limits.append(("grpc.enable_http_proxy", 1))
    files = [open(path, "rb").read() for path in sys.argv[3:]]
    with opened(place, limits, *files) as channel:
        try:
            ACTIONS[action](channel)
        except grpc.RpcError as error:
            print(error.code().name, error.details())


def opened(place, options, ca=None, certificate=None, key=None):
    if not ca:
        return grpc.insecure_channel(place, options=options)
    return grpc.secure_channel(place, grpc.ssl_channel_credentials(ca, key, certificate), options=options)


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    forged = [(name, "spiffe://test.example/admin") for name in ("x-fastness-peer-id", "x_fastness_peer_id")]
    forged.append(("x-own", "kept"))
    answer, info = call.with_call(b"hello", metadata=forged, timeout=20)
    trailers = {key: value for key, value in info.trailing_metadata()}
    print(answer.decode(), sorted(trailers.items()))


def heard(channel):
    print(channel.unary_unary("/test.Echo/Heard")(b"", timeout=20).decode())


def fail(channel):
    channel.unary_unary("/test.Echo/Fail")(b"so", timeout=20)


def gzip(channel):
    block = b"compressed " * 90_909 + b"."
    call = channel.unary_unary("/test.Echo/Gzip")
    assert call(block, compression=grpc.Compression.Gzip, timeout=60) == block
    print("gzip and back")


def patient(channel):
    """Three calls that would wait long, all but the first when the test says so."""
    for _ in range(3):
        try:
            print(channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=60).decode(), flush=True)
        except grpc.RpcError as error:
            print(error.code().name, error.details(), flush=True)
        sys.stdin.readline()


def hasty(channel):
    channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=1)


def insist(channel):
    """As many calls as go into three seconds; what they hear, each text once."""
    heard, end = set(), time.monotonic() + 3
    while time.monotonic() < end:
        try:
            channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=5)
            heard.add("answered")
        except grpc.RpcError as error:
            heard.add(f"{error.code().name} {error.details()}")
    print(*sorted(heard), sep="\n")


def slow(channel):
    def requests():
        yield b"first"
        sys.stdin.readline()
        yield b"second"

    answers = channel.stream_stream("/test.Echo/Both")(requests(), timeout=60)
    assert next(answers) == b"first"
    print("begun", flush=True)
    assert list(answers) == [b"second"]
    print("ended well", flush=True)


def twice(channel):
    """The second call when the test says so, on the same connection."""
    unary(channel)
    sys.stdout.flush()
    sys.stdin.readline()
    unary(channel)


def restless(channel):
    """Calls that are taken back, in the middle of their answers and before; a call of another connection beside."""

    def requests():
        yield b"before"
        over.wait()
        yield b"behind"

    over = threading.Event()
    with opened(sys.argv[1], [("grpc.use_local_subchannel_pool", 1)]) as other:
        answers = other.stream_stream("/test.Echo/Both")(requests(), timeout=600)
        assert next(answers) == b"before"
        endless = channel.unary_stream("/test.Echo/Endless")
        try:
            for _ in range(30):
                begun = [endless(b"") for _ in range(50)]
                for call in begun:
                    next(call)
                for call in begun:
                    call.cancel()
            for _ in range(5):
                begun = [endless(b"") for _ in range(400)]
                time.sleep(0.02)
                for call in begun:
                    call.cancel()
        finally:
            over.set()
        assert list(answers) == [b"behind"]
    print("not disturbed")


def taken_back_unseen(channel):
    endless = channel.unary_stream("/test.Echo/Endless")
    grpc.channel_ready_future(channel).result(timeout=30)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(4):
        begun = [endless(b"") for _ in range(600)]
        time.sleep(0.5)
        for call in begun:
            call.cancel()
        time.sleep(0.1)
    print("taken back", flush=True)


def take_back(channel):
    call = channel.unary_unary("/test.Echo/Wait").future(b"", timeout=30)
    sys.stdin.readline()
    call.cancel()
    print(call.code().name, flush=True)
    late(channel)


def late(channel):
    call = channel.unary_unary("/test.Echo/Wait").future(b"", timeout=2)
    print(call.code().name, flush=True)


def uploads(channel):
    """Calls beside uploads that nobody reads."""

    def blocks(begun):
        yield bytes(1 << 20)
        begun.set()
        while True:
            yield bytes(1 << 20)

    begun = [threading.Event() for _ in range(8)]
    stuck = [channel.stream_unary("/test.Echo/Deaf").future(blocks(event)) for event in begun]
    assert all(event.wait(60) for event in begun)
    for _ in range(20):
        assert channel.unary_unary("/test.Echo/Unary")(b"beside", timeout=20) == b"beside"
    assert not any(call.done() for call in stuck)
    for call in stuck:
        call.cancel()
    print("answered beside 8 uploads")


def gigabyte(channel):
    sent = hashlib.sha256()

    def blocks():
        block = os.urandom(1 << 20)
        for number in range(1024):
            piece = number.to_bytes(8, "big") + block[8:]
            sent.update(piece)
            yield piece

    received = channel.stream_unary("/test.Echo/Hash")(blocks(), timeout=600)
    assert received == sent.digest()
    print("1 GiB arrived whole")


def gigabyte_back(channel):
    received = hashlib.sha256()
    answers = channel.unary_stream("/test.Echo/Flood")(b"", timeout=600)
    size = 0
    for piece in answers:
        received.update(piece)
        size += len(piece)
    assert size == 1 << 30
    assert dict(answers.trailing_metadata())["whole-bin"] == received.digest()
    print("1 GiB came back whole")


def bulk(channel):
    blocks = [bytes([number % 251]) * (1 << 20) for number in range(64)]
    answers = channel.stream_stream("/test.Echo/Both")(iter(blocks), timeout=60)
    assert list(answers) == blocks
    print("64 MiB and back")


def message(channel):
    block = os.urandom(1 << 20) * 100
    assert channel.unary_unary("/test.Echo/Unary")(block, timeout=60) == block
    print("100 MiB in one message")


ACTIONS = {
    "unary": unary,
    "gzip": gzip,
    "twice": twice,
    "patient": patient,
    "hasty": hasty,
    "insist": insist,
    "slow": slow,
    "heard": heard,
    "fail": fail,
    "bulk": bulk,
    "message": message,
    "uploads": uploads,
    "take_back": take_back,
    "restless": restless,
    "taken_back_unseen": taken_back_unseen,
    "gigabyte": gigabyte,
    "gigabyte_back": gigabyte_back,
}
main()
