"""An application beside a node: grpcio, plaintext, at the place that the first argument names.

It echoes what it gets, and says who the node told it the caller is. Runs until its input ends."""

import sys
from concurrent import futures

import grpc


def told(context):
    return [
        ("told-" + key, value)
        for key, value in context.invocation_metadata()
        if key.startswith("x-")
    ]


class Echo(grpc.GenericRpcHandler):
    def __init__(self):
        self.heard = []

    def service(self, details):
        self.heard.append(details.method)
        return {
            "/test.Echo/Heard": grpc.unary_unary_rpc_method_handler(lambda *_: " ".join(self.heard).encode()),
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/test.Echo/Both": grpc.stream_stream_rpc_method_handler(self.both),
            "/test.Echo/Much": grpc.unary_unary_rpc_method_handler(lambda *_: bytes(60_000)),
            "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }.get(details.method)

    def unary(self, request, context):
        context.set_trailing_metadata(told(context))
        return request

    def both(self, requests, context):
        yield from requests

    def fail(self, request, context):
        context.set_trailing_metadata(told(context))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish: " + request.decode())


def main():
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=limits)
    server.add_generic_rpc_handlers([Echo()])
    if server.add_insecure_port(sys.argv[1]) == 0:
        sys.exit("cannot listen")
    server.start()
    print("serving", flush=True)
    sys.stdin.read()
    server.stop(0)


main()
