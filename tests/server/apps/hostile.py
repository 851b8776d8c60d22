#!/usr/bin/env python3
"""A service whose answers never end, each path in a way of its own. Written on sockets: no library would do this."""

import socket
import threading
import time

BLOCK = 1 << 16


def repeat(sock, piece):
    data = piece * (BLOCK // len(piece) + 1)
    while True:
        sock.sendall(data)


def drip(sock, piece):
    while True:
        sock.sendall(piece)
        time.sleep(0.05)


def interim(sock):
    repeat(sock, b"HTTP/1.1 100 Continue\r\n\r\n")


def slow_interim(sock):
    drip(sock, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")


def chunks(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    repeat(sock, b"1\r\nx\r\n")


def headers(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    repeat(sock, b"X-A: b\r\n")


def header(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    repeat(sock, b"b")


def status_line(sock):
    sock.sendall(b"HTTP/1.1 200 ")
    repeat(sock, b"b")


def trailers(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    repeat(sock, b"X-A: b\r\n")


def extension(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    repeat(sock, b"b")


def body(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    repeat(sock, b"b" * BLOCK)


def slow_head(sock):
    drip(sock, b"H")


def silence(sock):
    time.sleep(3600)


def upgrade(sock):
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    repeat(sock, b"\x82\x01x")


def switched(sock):
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
    repeat(sock, b"x")


def control(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: a\x0bb\r\nContent-Length: 0\r\n\r\n")


def ok(sock):
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def serve(sock):
    with sock:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(BLOCK)
            name = head.split()[1].decode().strip("/").replace("-", "_")
            globals().get(name or "ok", ok)(sock)
        except OSError:
            pass


if __name__ == "__main__":
    with socket.create_server(("", 8000), backlog=100) as server:
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
