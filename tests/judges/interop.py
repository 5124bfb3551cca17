"""gRPC's interoperability cases, written from their descriptions (grpc/doc/interop-test-descriptions.md).

`serve PLACE` is their server, with a health service; `call PLACE` runs every case and prints one line for
each: its name and what was seen. A case that sees anything else than its description demands fails."""

import asyncio
import sys
import threading

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import interop_pb2 as pb
import interop_pb2_grpc as stubs

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


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

    async def UnaryCall(self, request, context):
        await self.begin(request, context)
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return pb.SimpleResponse(payload=pb.Payload(body=bytes(request.response_size)))

    async def outputs(self, request):
        for wanted in request.response_parameters:
            await asyncio.sleep(wanted.interval_us / 1e6)
            yield pb.StreamingOutputCallResponse(payload=pb.Payload(body=bytes(wanted.size)))

    async def StreamingOutputCall(self, request, context):
        await self.begin(request, context)
        async for output in self.outputs(request):
            yield output

    async def StreamingInputCall(self, requests, context):
        total = 0
        async for request in requests:
            total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def FullDuplexCall(self, requests, context):
        await self.begin(None, context)
        async for request in requests:
            await self.fail(request, context)
            async for output in self.outputs(request):
                yield output


async def serve(place):
    server = grpc.aio.server(options=UNLIMITED)
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


class Cases:
    def __init__(self, place, channel):
        self.place = place
        self.stub = stubs.TestServiceStub(channel)
        self.channel = channel

    def empty_unary(self):
        return self.stub.EmptyCall(pb.Empty()) == pb.Empty()

    def large_unary(self):
        return size_of(self.stub.UnaryCall(large()))

    def client_compressed_unary(self):
        return size_of(self.stub.UnaryCall(large(), compression=grpc.Compression.Gzip))

    def server_compressed_unary(self):
        request = large()
        request.response_compressed.value = True
        return size_of(self.stub.UnaryCall(request))

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
            if not name.startswith("_") and name != "statuses":
                print(name, repr(case(cases)), flush=True)


if sys.argv[1] == "serve":
    asyncio.run(serve(sys.argv[2]))
else:
    call(sys.argv[2])
