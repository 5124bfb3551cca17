"""A listed peer that says nothing after its HTTP/2 preface (RFC 9113 section 3.4), by hand over mutual TLS with keys
in files. Prints what the node says of its limits until it closes the connection, as JSON.

    settings.py HOST PORT CERTIFICATE KEY       dials the node
    settings.py HOST PORT CERTIFICATE KEY CA    is dialled there, again and again: a line each, after `listening`"""

import json
import socket
import ssl
import struct
import sys

SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 4, 6, 7, 8
ACK = 1
# RFC 9113 section 6.5.2, and its default for the window of a connection (section 6.9.2).
NAMES = {1: "header_table", 2: "push", 3: "streams", 4: "stream_window", 5: "frame", 6: "header_list"}
WINDOW = 65535
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = b"\0\0\0" + bytes([SETTINGS, 0]) + bytes(4)


def frames(stream):
    """Type, flags, stream and payload of each, until the other side closes."""
    buffer = b""
    while True:
        while len(buffer) >= 9 and len(buffer) >= (length := 9 + int.from_bytes(buffer[:3], "big")):
            yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9:length]
            buffer = buffer[length:]
        try:
            more = stream.recv(1 << 16)
        except (ConnectionError, ssl.SSLError):
            return
        if not more:
            return
        buffer += more


def hear(stream):
    """The node's limits, once it has closed the connection."""
    said = {"connection_window": WINDOW, "pings": 0}
    for kind, flags, number, payload in frames(stream):
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                said[NAMES.get(name, str(name))] = value
        elif kind == WINDOW_UPDATE and number == 0:
            said["connection_window"] += int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            said["pings"] += 1
    print(json.dumps(said), flush=True)


def dial(address, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    stream = context.wrap_socket(socket.create_connection(address))
    stream.settimeout(50)
    stream.sendall(PREFACE + NO_SETTINGS)
    hear(stream)


def listen(address, certificate, key, ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(address)
    print("listening", flush=True)
    while True:
        stream = context.wrap_socket(listener.accept()[0], server_side=True)
        stream.settimeout(50)
        stream.sendall(NO_SETTINGS)
        preface = b""
        while len(preface) < len(PREFACE):
            preface += stream.recv(len(PREFACE) - len(preface))
        assert preface == PREFACE
        hear(stream)


def main():
    host, port, *files = sys.argv[1:]
    (dial if len(files) == 2 else listen)((host, int(port)), *files)


main()
