"""Watches every packet of a network namespace (AF_PACKET, packet(7)) and says what was on the wire:
TLS records (RFC 8446 section 5.1) on the ports that are named, or something else.

    wire.py PORT… -- WORD…        WORD: plaintext that must not be there

Prints "watching"; reports one line of JSON when its input ends."""

import json
import socket
import struct
import sys

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
# change_cipher_spec, alert, handshake, application_data.
TYPES = {20, 21, 22, 23}
# RFC 8446 section 5.2: 2^14 and 256 for what encryption adds.
LONGEST = (1 << 14) + 256


class Flow:
    """One direction of a TCP connection, in order; what comes early waits."""

    def __init__(self, first):
        self.next = first
        self.waiting = {}
        self.head = b""
        self.skip = 0
        self.records = 0
        self.fault = None

    def take(self, sequence, data):
        self.waiting[sequence] = max(self.waiting.get(sequence, b""), data, key=len)
        while True:
            # What begins at or before the next byte wanted, and goes beyond it: sent again, in part.
            found = next((s for s in self.waiting if (self.next - s) % 2**32 < 2**31), None)
            if found is None:
                return
            data = self.waiting.pop(found)[(self.next - found) % 2**32 :]
            self.next = (self.next + len(data)) % 2**32
            self.parse(data)

    def parse(self, data):
        while data and not self.fault:
            cut = min(self.skip, len(data))
            self.skip -= cut
            data = data[cut:]
            need = 5 - len(self.head)
            self.head, data = self.head + data[:need], data[need:]
            if len(self.head) == 5:
                kind, major, minor, length = struct.unpack("!BBBH", self.head)
                if kind not in TYPES or major != 3 or minor not in (1, 3) or not 0 < length <= LONGEST:
                    self.fault = self.head.hex()
                self.records += 1
                self.head, self.skip = b"", length


class Watch:
    def __init__(self, ports, words):
        self.ports, self.words = ports, words
        self.flows = {}
        self.found, self.others = set(), set()
        self.packets = self.bytes = 0

    def packet(self, frame):
        kind = struct.unpack_from("!H", frame, 12)[0]
        self.packets += 1
        self.bytes += len(frame)
        self.found |= {word for word in self.words if word.encode() in frame}
        # ARP, and the kernel's own IPv6 (neighbours, multicast listeners).
        if kind == 0x0806 or kind == 0x86DD:
            if kind == 0x86DD and frame[20] not in (0, 58):
                self.others.add(f"IPv6 next header {frame[20]}")
            return
        if kind != 0x0800:
            self.others.add(f"ethertype {kind:04x}")
            return
        ip = frame[14:]
        length = struct.unpack_from("!H", ip, 2)[0] or len(ip)
        protocol, header = ip[9], (ip[0] & 15) * 4
        if protocol != 6:
            self.others.add(f"IP protocol {protocol}")
            return
        tcp = ip[header:length]
        source, target, sequence = struct.unpack_from("!HHI", tcp)
        flags = tcp[13]
        if source not in self.ports and target not in self.ports:
            self.others.add(f"TCP {source} to {target}")
            return
        key = (ip[12:16], source, ip[16:20], target)
        if flags & 2:
            self.flows.setdefault((*key, sequence), Flow((sequence + 1) % 2**32))
            self.flows[key] = self.flows[(*key, sequence)]
        data = tcp[(tcp[12] >> 4) * 4 :]
        if data:
            if key not in self.flows:
                self.others.add(f"TCP {source} to {target} without a beginning")
            else:
                self.flows[key].take(sequence, data)

    def report(self, drops):
        flows = {id(flow): flow for flow in self.flows.values()}.values()
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "dropped": drops,
            "flows": len(flows),
            "records": sum(flow.records for flow in flows),
            "not_tls": [flow.fault for flow in flows if flow.fault],
            "gaps": sum(bool(flow.waiting) for flow in flows),
            "plaintext": sorted(self.found),
            "others": sorted(self.others),
        }


def main():
    cut = sys.argv.index("--")
    watch = Watch({int(port) for port in sys.argv[1:cut]}, sys.argv[cut + 1 :])
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)
    wire.settimeout(0.2)
    print("watching", flush=True)
    import select

    while True:
        ready, _, _ = select.select([wire, sys.stdin], [], [], 1)
        if wire in ready:
            frame, (interface, _, direction, *_) = wire.recvfrom(1 << 17)
            # A bridge shows a packet at both of its ports, and itself: once is enough.
            if direction != socket.PACKET_OUTGOING and interface != "bridge":
                watch.packet(frame)
        elif sys.stdin in ready:
            break
    statistics = wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    print(json.dumps(watch.report(struct.unpack("II", statistics)[1])), flush=True)


main()
