"""A web application beside a node: Python's own HTTP/1.1 server at the address that the first argument names.

It answers with what it was asked and told, and how long the body was; at /slow with the second half of its answer
once a line of its input says so. Runs until its input ends."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


go_on = threading.Event()


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        if self.path == "/slow":
            self.slow()
            return
        told = [self.folded(name) for name in ("x-fastness-peer-id", "x-fastness-pin-label", "x-own")]
        length = str(len(self.body())) if self.command == "PUT" else ""
        if self.path == "/host":
            told = [",".join(self.headers.get_all("host", ["-"]))]
        if self.path == "/agent":
            told = [",".join(self.headers.get_all("user-agent", ["-"]))]
        if self.path == "/much":
            told = ["much " * (16 << 20)]
        text = " ".join([self.command, self.path, *told, length]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        for number in range(80 if self.path == "/headers" else 0):
            self.send_header(f"x-{number}", "v" * 200)
        self.end_headers()
        self.wfile.write(text)

    def slow(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"6\r\nfirst\n\r\n")
        go_on.wait()
        self.wfile.write(b"7\r\nsecond\n\r\n0\r\n\r\n")

    def folded(self, name):
        """As CGI and WSGI read headers, which tell no `-` from a `_`."""
        found = [value for key, value in self.headers.items() if key.lower().replace("_", "-") == name]
        return ",".join(found) or "-"

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    do_GET = do_PUT = answer

    def log_message(self, *_):
        pass


host, port = sys.argv[1].split(":")
server = ThreadingHTTPServer((host, int(port)), Echo)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("serving", flush=True)
for _ in sys.stdin:
    go_on.set()
