"""An application that calls a peer through its node: grpcio, plaintext, to the place that the first
argument names. Prints one line for each call."""

import os
import sys

import grpc


def main():
    place, action = sys.argv[1:3]
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if os.environ.get("grpc_proxy"):
        limits.append(("grpc.enable_http_proxy", 1))
    with grpc.insecure_channel(place, options=limits) as channel:
        try:
            ACTIONS[action](channel)
        except grpc.RpcError as error:
            print(error.code().name, error.details())


def unary(channel):
    call = channel.unary_unary("/test.Echo/Unary")
    forged = [("x-fastness-peer-id", "spiffe://test.example/admin"), ("x-own", "kept")]
    answer, info = call.with_call(b"hello", metadata=forged, timeout=20)
    trailers = {key: value for key, value in info.trailing_metadata()}
    print(answer.decode(), sorted(trailers.items()))


def heard(channel):
    print(channel.unary_unary("/test.Echo/Heard")(b"", timeout=20).decode())


def fail(channel):
    channel.unary_unary("/test.Echo/Fail")(b"so", timeout=20)


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


def bulk(channel):
    blocks = [bytes([number % 251]) * (1 << 20) for number in range(64)]
    answers = channel.stream_stream("/test.Echo/Both")(iter(blocks), timeout=60)
    assert list(answers) == blocks
    print("64 MiB and back")


def message(channel):
    block = os.urandom(1 << 20) * 100
    assert channel.unary_unary("/test.Echo/Unary")(block, timeout=60) == block
    print("100 MiB in one message")


ACTIONS = {"unary": unary, "slow": slow, "fail": fail, "heard": heard, "bulk": bulk, "message": message}
main()
