"""A client of tstunnel/1 and of the guest's HTTP by hand, for tests of what is on the wire."""
import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import threading
import time

from lab import HOST, LAPTOP, REMOTE

SETTINGS, OPEN, OPENED, DATA, WINDOW, FIN, RESET, PING, PONG, GOAWAY, CONTROL = range(11)
INTERNAL, REFUSED, DENIED, NOT_FOUND, TIMED_OUT, TOO_MANY, CANCELLED = range(7)
STOP = 1
CREDIT = 256 * 1024
NOWHERE = "10.77.0.99:1"  # nobody answers for it: dialling takes seconds
TIMEOUT = 15
ASK = (b"GET /tinyscale/v1/tunnel HTTP/1.1\r\nHost: localhost\r\n"
       b"Connection: Upgrade\r\nUpgrade: tstunnel/1\r\n\r\n")


def frame(type, stream=0, payload=b"", flags=0, channel=0):
    return struct.pack("!IIBBBB", len(payload), stream, type, flags, channel, 0) + payload


def raw(length, stream, type, flags=0, channel=0, last=0, payload=b""):
    return struct.pack("!IIBBBB", length, stream, type, flags, channel, last) + payload


class Gone(Exception):
    """The guest has closed the carrier."""


class Carrier:
    """A client. Frames of streams are kept by stream; PING is answered."""

    def __init__(self, guest, settings=True):
        self.sock = socket.create_connection((REMOTE, guest.port), TIMEOUT)
        self.sock.sendall(ASK)
        self.file = self.sock.makefile("rb")
        self.status = self.file.readline()
        while self.file.readline().strip():
            pass
        self.next_id, self.kept = 1, []
        if settings:
            self.send(SETTINGS, payload=b"{}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()
        self.sock.close()

    def send(self, *args, **kw):
        self.sock.sendall(frame(*args, **kw))

    def pull(self):
        try:
            head = self.file.read(12)
            if len(head) < 12:
                raise Gone
            length, stream, type, flags, channel, _ = struct.unpack("!IIBBBB", head)
            payload = self.file.read(length)
            if type == PING:
                self.send(PONG, payload=payload)
        except ConnectionError:
            raise Gone from None
        self.kept.append((type, stream, flags, channel, payload))

    def wait(self, type, stream=0):
        """The next frame of this type on this stream: its payload."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for f in self.kept:
                if f[:2] == (type, stream):
                    self.kept.remove(f)
                    return f[4]
                if f[0] == RESET and f[1] == stream:
                    raise AssertionError(f"stream {stream} was reset: {f[4][4:]}")
            self.pull()
        raise AssertionError(f"no frame of type {type} on stream {stream}")

    def open(self, early=b"", **spec):
        """OPEN, with DATA right behind it; the stream's number."""
        n, self.next_id = self.next_id, self.next_id + 2
        self.sock.sendall(frame(OPEN, n, json.dumps(spec).encode()) + (frame(DATA, n, early) if early else b""))
        return n

    def refusal(self, stream):
        """Code and sentence of the RESET that answers an OPEN."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for f in self.kept:
                if f[1] == stream:
                    assert f[0] == RESET, f
                    self.kept.remove(f)
                    return struct.unpack("!I", f[4][:4])[0], f[4][4:].decode()
            self.pull()
        raise AssertionError(f"stream {stream} was not answered")

    def data(self, stream, n):
        """n bytes of DATA, no more and no less."""
        got = b""
        while len(got) < n:
            got += self.wait(DATA, stream)
        assert len(got) == n
        return got

    def alive(self):
        """A round trip; what came before it is kept."""
        token = os.urandom(8)
        self.send(PING, payload=token)
        while (PONG, 0, 0, 0, token) not in self.kept:
            self.pull()
        self.kept.remove((PONG, 0, 0, 0, token))
        return True

    def ends(self):
        """Reads until the guest has closed the carrier."""
        deadline = time.monotonic() + TIMEOUT
        try:
            while time.monotonic() < deadline:
                self.pull()
        except Gone:
            return True
        return False


@contextlib.contextmanager
def listening(where, serve):
    """A target: serve(socket) in a thread for each connection. where: a path, or None for TCP."""
    s = socket.socket(socket.AF_UNIX if where else socket.AF_INET)
    s.bind(where or (LAPTOP, 0))
    s.listen(16)
    accepted = []

    def one(c):
        with contextlib.suppress(OSError):
            serve(c)
        c.close()

    def loop():
        with contextlib.suppress(OSError):
            while True:
                c, _ = s.accept()
                accepted.append(c)
                threading.Thread(target=one, args=(c,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
    try:
        yield f"unix://{where}" if where else "%s:%d" % s.getsockname()
    finally:
        s.close()
        for c in accepted:
            with contextlib.suppress(OSError):
                c.shutdown(socket.SHUT_RDWR)


def echo(c):
    """Sends everything back, and a last word after the client's end of stream."""
    while chunk := c.recv(65536):
        c.sendall(chunk)
    c.sendall(b"bye")


def flood(c):
    while True:
        c.sendall(b"x" * 65536)


def request(guest, method, path, body=None, headers=None, tls=None):
    """Status and body of one plain request; tls is an ssl context."""
    if tls:
        c = http.client.HTTPSConnection(HOST, guest.port, timeout=TIMEOUT, context=tls)
    else:
        c = http.client.HTTPConnection(REMOTE, guest.port, timeout=TIMEOUT)
    with contextlib.closing(c):
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        return r.status, r.read()


def tls_context(lab, who):
    context = ssl.create_default_context(cafile=lab.pki.crt("ca"))
    context.load_cert_chain(lab.pki.crt(who), lab.pki.key(who))
    return context
