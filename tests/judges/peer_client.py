"""A grpcio client of a Fastness node, with its key in a file. Talks with the test by lines."""

import argparse
import queue
import sys
import threading

import grpc
from fastness.peer.v1 import peer_pb2, peer_pb2_grpc
from greeter.v1 import greeter_pb2, greeter_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--id", required=True, help="who we are, as the node should see it")
    parser.add_argument("--pin", required=True, help="our SPKI pin, as the node should see it")
    parser.add_argument("--node-id", required=True, help="whom we dial")
    parser.add_argument("action")
    return parser.parse_args()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def block(size, send_back):
    return peer_pb2.TransferRequest(block=b"\x55" * size, send_back=send_back)


def everything(channel, args):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "fastness.peer.v1.Peer"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)
    peer = peer_pb2_grpc.PeerStub(channel)
    hello = peer.Hello(peer_pb2.HelloRequest())
    assert hello.peer_id == args.id, hello
    assert hello.spki_pin == args.pin, hello
    assert hello.pin_label == "active", hello
    assert hello.tls_version == "TLSv1.3", hello
    assert hello.node_id == args.node_id, hello
    # What BoringSSL offers and a Fastness node prefers.
    assert hello.group == "X25519MLKEM768", hello
    assert hello.cipher_suite.startswith("TLS_AES_"), hello
    assert peer.Ping(peer_pb2.PingRequest(nonce=2**63 + 1)).nonce == 2**63 + 1
    sizes = [0, 1, 65536, 1 << 20, 12345]
    received = 0
    answers = peer.Transfer(block(size, size) for size in sizes)
    for size, answer in zip(sizes, answers, strict=True):
        received += size
        assert len(answer.block) == size and answer.received == received, (size, answer.received)
    print("all is well", flush=True)


def too_long(channel, _args):
    """Blocks above what the protocol allows, and a message above what the server takes."""
    peer = peer_pb2_grpc.PeerStub(channel)
    for request in (block((1 << 20) + 1, 0), block(0, (1 << 20) + 1), block(3 << 20, 0)):
        try:
            list(peer.Transfer(iter([request])))
        except grpc.RpcError as error:
            print(error.code().name, flush=True)
        else:
            print("taken", flush=True)
    assert peer.Ping(peer_pb2.PingRequest(nonce=7)).nonce == 7


def beyond_the_limit(channel, _args):
    """A message of 4 KiB to each service of a node that is told to take less."""
    peer, health = peer_pb2_grpc.PeerStub(channel), health_pb2_grpc.HealthStub(channel)
    greeter = greeter_pb2_grpc.GreeterStub(channel)
    long = "x" * 4096
    for call in (
        lambda: list(peer.Transfer(iter([block(4096, 0)]))),
        lambda: health.Check(health_pb2.HealthCheckRequest(service=long)),
        lambda: greeter.Greet(greeter_pb2.GreetRequest(name=long)),
    ):
        try:
            call()
        except grpc.RpcError as error:
            print(error.code().name, flush=True)
        else:
            print("taken", flush=True)


def unknown_method(channel, _args):
    call = channel.unary_unary("/fastness.peer.v1.Peer/Sign", bytes, bytes)
    try:
        call(b"")
    except grpc.RpcError as error:
        print(error.code().name, flush=True)


def slow_transfer(channel, _args):
    def blocks():
        yield block(1000, 1000)
        assert sys.stdin.readline().strip() == "go on"
        for _ in range(9):
            yield block(1000, 1000)

    total = 0
    for answer in peer_pb2_grpc.PeerStub(channel).Transfer(blocks()):
        total += len(answer.block)
        if answer.received == 1000:
            print("under way", flush=True)
    assert total == 10000, total
    print("ended well", flush=True)


def chat(channel, _args):
    """One stream, open for as long as the test likes: each line of the test's is a block there and back."""
    waiting = queue.Queue()
    answers = peer_pb2_grpc.PeerStub(channel).Transfer(iter(waiting.get, None))
    said = 0
    for line in sys.stdin:
        waiting.put(block(1000, 1000))
        answer = next(answers)
        said += 1
        assert (len(answer.block), answer.received) == (1000, 1000 * said), (said, answer.received)
        print(said, flush=True)
    waiting.put(None)
    assert list(answers) == []
    print("ended well", flush=True)


def watch_health(channel, _args):
    """Each state that the node reports, until the test has heard enough."""
    answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

    def stop():
        sys.stdin.read()
        answers.cancel()

    threading.Thread(target=stop, daemon=True).start()
    try:
        for answer in answers:
            print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), flush=True)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error
    print("the end", flush=True)


def refused(channel, _args):
    try:
        peer_pb2_grpc.PeerStub(channel).Hello(peer_pb2.HelloRequest())
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
    else:
        print("let in", flush=True)


def greet(channel, args):
    greeter = greeter_pb2_grpc.GreeterStub(channel)
    for via in ("", "b"):
        answer = greeter.Greet(greeter_pb2.GreetRequest(name="Ada", via=via), timeout=30)
        print(answer.text, flush=True)
    try:
        greeter.Greet(greeter_pb2.GreetRequest(name="Ada", via="nobody"))
    except grpc.RpcError as error:
        print(error.code().name, flush=True)


def calls(channel, _args):
    """Calls each method that the test names, with an empty message, over one connection."""
    for line in sys.stdin:
        try:
            channel.unary_unary(line.strip())(b"", timeout=20)
        except grpc.RpcError as error:
            print(error.code().name, error.details(), flush=True)
        else:
            print("OK", flush=True)


def main():
    args = arguments()
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(args.ca),
        private_key=read(args.key),
        certificate_chain=read(args.certificate),
    )
    # The name in grpcio is the address, which the certificate carries as an IP address.
    with grpc.secure_channel(args.address, credentials) as channel:
        {
            "everything": everything,
            "too-long": too_long,
            "beyond-the-limit": beyond_the_limit,
            "unknown-method": unknown_method,
            "slow-transfer": slow_transfer,
            "chat": chat,
            "watch-health": watch_health,
            "refused": refused,
            "greet": greet,
            "calls": calls,
        }[args.action](channel, args)


main()
