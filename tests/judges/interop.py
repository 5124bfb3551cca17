"""gRPC's interoperability cases, written from their descriptions (grpc/doc/interop-test-descriptions.md).

`serve PLACE` is their server, with a health service; `call PLACE` runs every case and prints one line for
each: its name and what was seen. A case that sees anything else than its description demands fails."""

import asyncio
import contextlib
import gzip
import os
import sys
import threading

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import interop_pb2 as pb
import interop_pb2_grpc as stubs

# Compressed messages reach us as they are, and show that they were flagged so.
AS_SENT = [("grpc.per_message_decompression", 0)]
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def told(read):
    """Reads a message as `read` does, and says whether it was compressed: no message of ours begins as gzip does
    (RFC 1952 section 2.3.1)."""

    def both(message):
        compressed = message.startswith(b"\x1f\x8b")
        return read(gzip.decompress(message) if compressed else message), compressed

    return both


class Telling(grpc.aio.ServerInterceptor):
    """The methods that expect compression hear of it with every message."""

    async def intercept_service(self, continuation, details):
        method = await continuation(details)
        if details.method.rpartition("/")[2] in ("UnaryCall", "StreamingInputCall"):
            method = method._replace(request_deserializer=told(method.request_deserializer))
        return method


async def compress(context):
    context.set_compression(grpc.Compression.Gzip)
    # grpcio forgets it with metadata that it sends of its own accord.
    await context.send_initial_metadata(())


async def expect(request, compressed, context):
    if request.HasField("expect_compressed") and request.expect_compressed.value != compressed:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"compressed: {compressed}")


class Service(stubs.TestServiceServicer):
    async def begin(self, request, context):
        for key, value in context.invocation_metadata():
            if key == ECHO_INITIAL:
                await context.send_initial_metadata([(key, value)])
            if key == ECHO_TRAILING:
                context.set_trailing_metadata([(key, value)])
        await self.fail(request, context)

    async def fail(self, request, context):
        if request is not None and request.HasField("response_status"):
            wanted = request.response_status
            codes = {code.value[0]: code for code in grpc.StatusCode}
            await context.abort(codes[wanted.code], wanted.message)

    async def EmptyCall(self, request, context):
        return pb.Empty()

    async def UnaryCall(self, received, context):
        request, compressed = received
        await expect(request, compressed, context)
        await self.begin(request, context)
        if request.response_compressed.value:
            await compress(context)
        return pb.SimpleResponse(payload=pb.Payload(body=bytes(request.response_size)))

    async def outputs(self, request, context):
        if any(wanted.compressed.value for wanted in request.response_parameters):
            await compress(context)
        for wanted in request.response_parameters:
            if not wanted.compressed.value:
                context.disable_next_message_compression()
            await asyncio.sleep(wanted.interval_us / 1e6)
            yield pb.StreamingOutputCallResponse(payload=pb.Payload(body=bytes(wanted.size)))

    async def StreamingOutputCall(self, request, context):
        await self.begin(request, context)
        async for output in self.outputs(request, context):
            yield output

    async def StreamingInputCall(self, requests, context):
        total = 0
        async for request, compressed in requests:
            await expect(request, compressed, context)
            total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def FullDuplexCall(self, requests, context):
        await self.begin(None, context)
        async for request in requests:
            await self.fail(request, context)
            async for output in self.outputs(request, context):
                yield output


async def serve(place):
    server = grpc.aio.server(options=UNLIMITED + AS_SENT, interceptors=[Telling()])
    stubs.add_TestServiceServicer_to_server(Service(), server)
    wellness = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(wellness, server)
    assert server.add_insecure_port(place)
    await server.start()
    loop = asyncio.get_running_loop()
    line = "SERVING"
    while line:
        status = getattr(health_pb2.HealthCheckResponse, line.strip())
        await wellness.set("grpc.testing.TestService", status)
        print(line.strip(), flush=True)
        line = await loop.run_in_executor(None, sys.stdin.readline)
    await server.stop(0)


def payload(size):
    return pb.Payload(body=bytes(size))


def large():
    return pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))


def size_of(response):
    assert response.payload.body == bytes(len(response.payload.body))
    return len(response.payload.body)


def wants(*sizes, interval=0):
    return pb.StreamingOutputCallRequest(
        response_parameters=[pb.ResponseParameters(size=size, interval_us=interval) for size in sizes]
    )


class TellingChannel:
    def __init__(self, channel):
        self.channel = channel

    def __getattr__(self, kind):
        def method(name, request_serializer, response_deserializer, **options):
            return getattr(self.channel, kind)(
                name, request_serializer, told(response_deserializer), **options
            )

        return method


class Cases:
    def __init__(self, place, channel):
        self.place = place
        self.stub = stubs.TestServiceStub(channel)
        self.channel = channel

    @contextlib.contextmanager
    def telling(self):
        """A stub whose answers come with whether they were compressed."""
        with grpc.insecure_channel(self.place, options=UNLIMITED + AS_SENT) as channel:
            yield stubs.TestServiceStub(TellingChannel(channel))

    def empty_unary(self):
        return self.stub.EmptyCall(pb.Empty()) == pb.Empty()

    def large_unary(self):
        return size_of(self.stub.UnaryCall(large()))

    def client_compressed_unary(self):
        compressed, plain = large(), large()
        compressed.expect_compressed.value = True
        plain.expect_compressed.value = False
        # The probe: a server that does not look would not refuse it.
        seen = [failure(lambda: self.stub.UnaryCall(compressed))]
        seen.append(size_of(self.stub.UnaryCall(compressed, compression=grpc.Compression.Gzip)))
        return *seen, size_of(self.stub.UnaryCall(plain))

    def server_compressed_unary(self):
        seen = []
        with self.telling() as stub:
            for compressed in (True, False):
                request = large()
                request.response_compressed.value = compressed
                answer, flag = stub.UnaryCall(request)
                assert flag == compressed
                seen.append((size_of(answer), flag))
        return seen

    def client_compressed_streaming(self):
        compressed = pb.StreamingInputCallRequest(payload=payload(27182))
        compressed.expect_compressed.value = True
        seen = [failure(lambda: self.stub.StreamingInputCall(iter([compressed])))]
        # grpcio has no word for one message of a call; what would only grow it sends as it is.
        plain = pb.StreamingInputCallRequest(payload=pb.Payload(body=os.urandom(45904)))
        plain.expect_compressed.value = False
        requests = iter([compressed, plain])
        answer = self.stub.StreamingInputCall(requests, compression=grpc.Compression.Gzip)
        return *seen, answer.aggregated_payload_size

    def server_compressed_streaming(self):
        request = wants(31415, 92653)
        request.response_parameters[0].compressed.value = True
        request.response_parameters[1].compressed.value = False
        with self.telling() as stub:
            seen = [(size_of(answer), flag) for answer, flag in stub.StreamingOutputCall(request)]
        assert [flag for _, flag in seen] == [True, False]
        return seen

    def client_streaming(self):
        sizes = (27182, 8, 1828, 45904)
        requests = (pb.StreamingInputCallRequest(payload=payload(size)) for size in sizes)
        return self.stub.StreamingInputCall(requests).aggregated_payload_size

    def server_streaming(self):
        answers = self.stub.StreamingOutputCall(wants(31415, 9, 2653, 58979))
        return [size_of(answer) for answer in answers]

    def ping_pong(self):
        seen, turn = [], threading.Semaphore(0)

        def requests():
            for size in (31415, 9, 2653, 58979):
                yield wants(size)
                turn.acquire()

        for answer in self.stub.FullDuplexCall(requests()):
            seen.append(size_of(answer))
            turn.release()
        return seen

    def empty_stream(self):
        return list(self.stub.FullDuplexCall(iter(())))

    def custom_metadata(self):
        sent = [(ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab")]
        _, unary = self.stub.UnaryCall.with_call(large(), metadata=sent)
        stream = self.stub.FullDuplexCall(iter([wants(314159)]), metadata=sent)
        assert [size_of(answer) for answer in stream] == [314159]
        return [
            (dict(call.initial_metadata())[ECHO_INITIAL], dict(call.trailing_metadata())[ECHO_TRAILING])
            for call in (unary, stream)
        ]

    def status_code_and_message(self):
        return self.statuses(2, "test status message")

    def special_status_message(self):
        return self.statuses(2, SPECIAL)[:1]

    def statuses(self, code, message):
        status = pb.EchoStatus(code=code, message=message)
        seen = [failure(lambda: self.stub.UnaryCall(pb.SimpleRequest(response_status=status)))]
        request = pb.StreamingOutputCallRequest(response_status=status)
        seen.append(failure(lambda: list(self.stub.FullDuplexCall(iter([request])))))
        assert all(details == message for _, details in seen), seen
        return seen

    def unimplemented_method(self):
        return failure(lambda: self.stub.UnimplementedCall(pb.Empty()))[0]

    def unimplemented_service(self):
        stub = stubs.UnimplementedServiceStub(self.channel)
        return failure(lambda: stub.UnimplementedCall(pb.Empty()))[0]

    def cancel_after_begin(self):
        hold = threading.Event()

        def requests():
            hold.wait()
            yield from ()

        call = self.stub.StreamingInputCall.future(requests())
        call.cancel()
        hold.set()
        return call.code().name

    def cancel_after_first_response(self):
        hold = threading.Event()

        def requests():
            yield wants(31415)
            hold.wait()

        call = self.stub.FullDuplexCall(requests())
        first = size_of(next(call))
        call.cancel()
        hold.set()
        return first, failure(lambda: list(call))[0]

    def timeout_on_sleeping_server(self):
        call = self.stub.FullDuplexCall(iter([wants(31415, interval=5_000_000)]), timeout=0.5)
        return failure(lambda: list(call))[0]

    def health(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest
        known = stub.Check(request(service="grpc.testing.TestService")).status
        return known, failure(lambda: stub.Check(request(service="unknown")))[0]

    def large_metadata(self):
        sent = [(ECHO_INITIAL, "m" * 6000)]
        _, call = self.stub.UnaryCall.with_call(large(), metadata=sent)
        return len(dict(call.initial_metadata())[ECHO_INITIAL])

    def half_close(self):
        """The server goes on when the client has said all."""
        answers = self.stub.FullDuplexCall(iter([wants(*[1000] * 50, interval=1000)]))
        return len(list(answers))

    def a_thousand_streams_at_once(self):
        """None of them ends before all have had an answer."""

        async def stream(stub, everybody):
            call = stub.FullDuplexCall()
            await call.write(wants(7))
            first = size_of(await call.read())
            await everybody.wait()
            await call.write(wants(3))
            await call.done_writing()
            last = size_of(await call.read())
            assert await call.read() is grpc.aio.EOF
            return first + last

        async def all_of_them():
            async with grpc.aio.insecure_channel(self.place, options=UNLIMITED) as channel:
                stub, everybody = stubs.TestServiceStub(channel), Barrier(1000)
                return sum(await asyncio.gather(*(stream(stub, everybody) for _ in range(1000))))

        return asyncio.run(all_of_them())


class Barrier:
    def __init__(self, count):
        self.missing, self.complete = count, asyncio.Event()

    async def wait(self):
        self.missing -= 1
        if not self.missing:
            self.complete.set()
        await self.complete.wait()


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("it succeeded")


def call(place):
    with grpc.insecure_channel(place, options=UNLIMITED) as channel:
        cases = Cases(place, channel)
        for name, case in vars(Cases).items():
            if not name.startswith("_") and name not in ("statuses", "telling"):
                print(name, repr(case(cases)), flush=True)


if sys.argv[1] == "serve":
    asyncio.run(serve(sys.argv[2]))
else:
    call(sys.argv[2])
