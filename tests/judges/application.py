"""An application beside a node: grpcio, plaintext, at the place that the first argument names.

It echoes what it gets, and says who the node told it the caller is. Runs until its input ends."""

import hashlib
import os
import sys
import threading
from concurrent import futures

import grpc


def say(line):
    """In one piece: print writes the end of the line apart, and other threads say something too."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def told(context):
    return [
        ("told-" + key, value)
        for key, value in context.invocation_metadata()
        if key.startswith(("x-", "x_"))
    ]


class Echo(grpc.GenericRpcHandler):
    def __init__(self):
        self.heard = []

    def service(self, details):
        self.heard.append(details.method)
        return {
            "/test.Echo/Heard": grpc.unary_unary_rpc_method_handler(lambda *_: " ".join(self.heard).encode()),
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/test.Echo/Gzip": grpc.unary_unary_rpc_method_handler(self.gzip),
            "/test.Echo/Both": grpc.stream_stream_rpc_method_handler(self.both),
            "/test.Echo/Endless": grpc.unary_stream_rpc_method_handler(self.endless),
            "/test.Echo/Much": grpc.unary_unary_rpc_method_handler(lambda *_: bytes(60_000)),
            "/test.Echo/Large": grpc.unary_unary_rpc_method_handler(lambda *_: bytes(2 << 20)),
            "/test.Echo/Bulk": grpc.unary_unary_rpc_method_handler(lambda *_: bytes(64 << 20)),
            "/test.Echo/Deaf": grpc.stream_unary_rpc_method_handler(self.deaf),
            "/test.Echo/Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "/test.Echo/Hash": grpc.stream_unary_rpc_method_handler(self.hash),
            "/test.Echo/Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }.get(details.method)

    def unary(self, request, context):
        context.set_trailing_metadata(told(context))
        return request

    def gzip(self, request, context):
        context.set_compression(grpc.Compression.Gzip)
        context.set_trailing_metadata([("length-of-the-message", str(len(request)))])
        return request

    def both(self, requests, context):
        yield from requests

    def endless(self, _request, context):
        while context.is_active():
            yield bytes(16_000)

    def deaf(self, _requests, context):
        self.until_over(context)

    def flood(self, _request, context):
        """As many bytes as go through one stream, and what they come to."""
        whole, block = hashlib.sha256(), os.urandom(1 << 20)
        for number in range(1024):
            piece = number.to_bytes(8, "big") + block[8:]
            whole.update(piece)
            yield piece
        context.set_trailing_metadata([("whole-bin", whole.digest())])

    def hash(self, requests, _context):
        whole = hashlib.sha256()
        for request in requests:
            whole.update(request)
        return whole.digest()

    def wait(self, _request, context):
        left = context.time_remaining()
        say("asked " + ("with a deadline" if left is not None and 0 < left <= 30 else str(left)))
        self.until_over(context)
        say("over")

    def until_over(self, context):
        over = threading.Event()
        if context.add_callback(over.set):
            over.wait()

    def fail(self, request, context):
        context.set_trailing_metadata(told(context))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish: " + request.decode())


def main():
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(64), options=limits)
    server.add_generic_rpc_handlers([Echo()])
    if server.add_insecure_port(sys.argv[1]) == 0:
        sys.exit("cannot listen")
    server.start()
    print("serving", flush=True)
    sys.stdin.read()
    server.stop(0)


main()
