#!/usr/bin/env python3
# ruff: noqa: T201, N815
"""A web app as people write them: tells what it was asked, streams, counts uploads, and misbehaves when told to."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.time_ns()
COUNT = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        print(self.command, self.path.partition("?")[0], flush=True)

    def body(self):
        """Yield the body as it comes, whichever way its end is told."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left:
                data = self.rfile.read1(min(left, 65536))
                if not data:
                    return
                left -= len(data)
                yield data

    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Connection", "X-Hop")
        self.send_header("X-Hop", "stays here")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def serve(self):
        global COUNT
        COUNT += 1
        path = self.path.partition("?")[0]
        if path == "/upload":
            self.answer({"bytes": sum(map(len, self.body())), "chunked": "Transfer-Encoding" in self.headers})
        elif path == "/pour":
            self.pour()
        elif path == "/relay":
            self.relay()
        elif path == "/early":
            self.answer({"error": "not read"}, 413)
            self.close_connection = True
        elif path == "/break":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif path == "/control":
            self.wfile.write(b"HTTP/1.1 200 O\x0bK\r\nX-Odd: a\x0bb\x01c\r\nContent-Length: 2\r\n\r\nok")
        elif path == "/hang-up":
            self.connection.close()
            self.close_connection = True
        elif path == "/switch":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "raw")
            self.end_headers()
        elif path == "/hold":
            time.sleep(60)
        elif path == "/nothing":
            self.send_response(204)
            self.end_headers()
        elif path == "/exit":
            self.answer({})
            self.wfile.flush()
            os._exit(3)
        else:
            self.answer(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": self.headers.items(),
                    "body": b"".join(self.body()).decode("latin-1"),
                    "started": STARTED,
                    "count": COUNT,
                    "env": os.environ.get("SECRET"),
                    "port": os.environ.get("PORT"),
                }
            )

    def pour(self):
        """Send 64 MiB as they are made, without saying how much it will be."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        block = bytes(65536)
        for _ in range(1024):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")

    def relay(self):
        """Answer each piece of the body before the next one comes."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in self.body():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


print("listening", flush=True)
print("to stderr", file=sys.stderr, flush=True)
Server(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
