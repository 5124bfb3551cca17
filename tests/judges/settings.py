"""A listed peer that says nothing after its HTTP/2 preface (RFC 9113 section 3.4), by hand over mutual TLS with keys
in files. Prints what the node says of its limits until it closes the connection, as JSON.

    settings.py HOST PORT CERTIFICATE KEY"""

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


def main():
    host, port, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    stream = context.wrap_socket(socket.create_connection((host, int(port))))
    stream.settimeout(50)
    stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + bytes([SETTINGS, 0]) + bytes(4))
    said = {"connection_window": WINDOW, "pings": 0}
    for kind, flags, number, payload in frames(stream):
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                said[NAMES.get(name, str(name))] = value
        elif kind == WINDOW_UPDATE and number == 0:
            said["connection_window"] += int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            said["pings"] += 1
    print(json.dumps(said))


main()
