"""A grpcio server that speaks the Peer service, with its key in a file. Ends when its input ends."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from fastness.peer.v1 import peer_pb2, peer_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc


class Peer(peer_pb2_grpc.PeerServicer):
    def __init__(self, node_id):
        self.node_id = node_id

    def Hello(self, _request, context):
        seen = context.auth_context()
        names = [name.decode() for name in seen.get("peer_spiffe_id", [])]
        return peer_pb2.HelloResponse(
            peer_id=names[0] if names else "none",
            pin_label="active",
            tls_version="TLSv1.3",
            group=",".join(name.decode() for name in seen.get("security_level", [])),
            address=context.peer(),
            node_id=self.node_id,
        )

    def Ping(self, request, _context):
        return peer_pb2.PingResponse(nonce=request.nonce)

    def Transfer(self, requests, _context):
        received = 0
        for request in requests:
            received += len(request.block)
            yield peer_pb2.TransferResponse(block=b"\xaa" * request.send_back, received=received)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--id", required=True)
    args = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    peer_pb2_grpc.add_PeerServicer_to_server(Peer(args.id), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    credentials = grpc.ssl_server_credentials(
        [(read(args.key), read(args.certificate))],
        root_certificates=read(args.ca),
        require_client_auth=True,
    )
    assert server.add_secure_port(args.address, credentials)
    server.start()
    print("listening", flush=True)
    sys.stdin.read()
    server.stop(None)


main()
