"""Services that make and take traffic, each in a process of its own, and what clients measure of it.

    traffic.py serve NAME=PORT...      NAME: echo, source (sends for ever), sink, duplex (sends until its
                                       reader ends, then a digest of what it got), deaf (never reads)
    traffic.py pull|push PORT N        N bulk streams; prints now and then how many bytes have arrived
    traffic.py ping PORT N             N interactive streams; prints now and then how many answers came
"""
import contextlib
import ctypes
import hashlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

PIECE = bytes(range(256)) * 1024  # 256 KiB
REPORT = 0.02  # seconds between the counts that a sink sends


# -- services ----------------------------------------------------------------------------------------

class Echo:
    def __init__(self, sock):
        self.sock, self.held, self.eof = sock, b"", False
        self.events = select.EPOLLIN

    def run(self, events):
        """False: over."""
        if self.held:
            with contextlib.suppress(BlockingIOError):
                self.held = self.held[self.sock.send(self.held):]
        elif not self.eof:
            self.held = self.sock.recv(1 << 16)
            self.eof = not self.held
            with contextlib.suppress(BlockingIOError):
                self.held = self.held[self.sock.send(self.held):]
        self.events = select.EPOLLOUT if self.held else select.EPOLLIN
        return bool(self.held) or not self.eof


class Source:
    def __init__(self, sock):
        self.sock, self.events, self.at = sock, select.EPOLLOUT, 0

    def run(self, events):
        with contextlib.suppress(BlockingIOError):
            self.at = (self.at + self.sock.send(memoryview(PIECE)[self.at:])) % len(PIECE)
        return True


class Sink:
    """Says from time to time how much it has got, 8 bytes, and at the end."""

    def __init__(self, sock):
        self.sock, self.events, self.total, self.told = sock, select.EPOLLIN, 0, 0.0

    def run(self, events):
        n = len(self.sock.recv(1 << 18))
        self.total += n
        now = time.monotonic()
        if n == 0 or now - self.told > REPORT:
            self.told = now
            self.sock.send(struct.pack("!Q", self.total))
        return n > 0


class Duplex:
    def __init__(self, sock):
        self.sock, self.events = sock, select.EPOLLIN | select.EPOLLOUT
        self.hash, self.at, self.last = hashlib.sha256(), 0, b""

    def run(self, events):
        if events & select.EPOLLIN and self.events & select.EPOLLIN:
            data = self.sock.recv(1 << 16)
            self.hash.update(data)
            if not data:
                self.events = select.EPOLLOUT
                self.last = self.hash.hexdigest().encode()
        with contextlib.suppress(BlockingIOError):
            if self.last:
                self.last = self.last[self.sock.send(self.last):]
                return bool(self.last)
            self.at = (self.at + self.sock.send(memoryview(PIECE)[self.at:self.at + 65536])) % len(PIECE)
        return True


class Deaf:
    def __init__(self, sock):
        self.events = 0

    def run(self, events):
        return False


SERVICES = {"echo": Echo, "source": Source, "sink": Sink, "duplex": Duplex, "deaf": Deaf}


def raise_limit():
    """As many descriptors as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(kind, port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    listener.setblocking(False)
    ep = select.epoll()
    ep.register(listener, select.EPOLLIN)
    conns = {}
    print("up", flush=True)
    while True:
        for fd, events in ep.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock = listener.accept()[0]
                        sock.setblocking(False)
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        conns[sock.fileno()] = sock, kind(sock)
                        ep.register(sock, conns[sock.fileno()][1].events)
                continue
            sock, conn = conns[fd]
            before, alive = conn.events, False
            with contextlib.suppress(OSError):
                alive = conn.run(events)
            if not alive:
                ep.unregister(fd)
                sock.close()
                del conns[fd]
            elif conn.events != before:
                ep.modify(fd, conn.events)


# -- clients -----------------------------------------------------------------------------------------

def connect(port, host="127.0.0.1"):
    c = socket.create_connection((host, port), 10)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.setblocking(False)
    return c


class Flows:
    """Bulk streams of this process, pulled from a source or pushed to a sink; .step() moves what can
    be moved for a while, .moved is what has arrived."""

    def __init__(self, port, n, push, host="127.0.0.1"):
        self.conns = [connect(port, host) for _ in range(n)]
        self.push, self.moved = push, 0
        self.told = {}
        self.ep = select.epoll()
        for c in self.conns:
            self.ep.register(c, select.EPOLLIN | (select.EPOLLOUT if push else 0))
        self.by_fd = {c.fileno(): c for c in self.conns}

    def step(self, seconds):
        for fd, events in self.ep.poll(max(seconds, 0)):
            c = self.by_fd[fd]
            if events & select.EPOLLOUT:
                with contextlib.suppress(BlockingIOError):
                    c.send(PIECE)
            if events & select.EPOLLIN:
                data = c.recv(1 << 18)
                assert data, "a bulk stream ended"
                if not self.push:
                    self.moved += len(data)
                    continue
                # Counts may be cut anywhere: the last whole one is what has arrived.
                data = self.told.get(fd, (0, b""))[1] + data
                whole = len(data) // 8 * 8
                before = self.told.get(fd, (0, b""))[0]
                now = struct.unpack("!Q", data[whole - 8:whole])[0] if whole else before
                self.told[fd] = now, data[whole:]
                self.moved += now - before

    def rate(self, seconds):
        """Bytes a second that arrive, for that long from now."""
        start, before = time.monotonic(), self.moved
        while (left := start + seconds - time.monotonic()) > 0:
            self.step(left)
        return (self.moved - before) / (time.monotonic() - start)

    def close(self):
        for c in self.conns:
            c.close()
        self.ep.close()


class Pings:
    """Interactive streams to an echo: a few bytes now and then, the answers timed."""

    def __init__(self, port, n, pause, host="127.0.0.1"):
        self.conns = {}
        self.ep = select.epoll()
        for _ in range(n):
            c = connect(port, host)
            self.conns[c.fileno()] = c
            self.ep.register(c, select.EPOLLIN)
        self.pause = pause

    def round_trips(self, seconds):
        """Seconds each, sorted."""
        took, sent, due = [], {}, {}
        start = time.monotonic()
        for i, fd in enumerate(self.conns):
            due[fd] = start + self.pause * i / len(self.conns)
        got = dict.fromkeys(self.conns, b"")
        text = b"what a person types, and a bit\n" * 2
        while (now := time.monotonic()) < start + seconds or sent:
            assert now < start + seconds + 20, "an answer never came"
            for fd, at in list(due.items()):
                if at <= now and now < start + seconds:
                    del due[fd]
                    sent[fd] = time.monotonic()
                    self.conns[fd].send(text)
            for fd, _ in self.ep.poll(0.001):
                got[fd] += self.conns[fd].recv(4096)
                assert text.startswith(got[fd]), "other bytes came back"
                if got[fd] == text:
                    got[fd] = b""
                    now = time.monotonic()
                    took.append(now - sent.pop(fd))
                    due[fd] = now + self.pause
        return sorted(took)

    def close(self):
        for c in self.conns.values():
            c.close()
        self.ep.close()


def main():
    raise_limit()
    if sys.argv[1] == "serve":
        for word in sys.argv[2:]:
            name, port = word.split("=")
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
                serve(SERVICES[name], int(port))
        while True:
            os.wait()
    if sys.argv[1] == "ping":
        pings, n = Pings(int(sys.argv[2]), int(sys.argv[3]), 0.5), 0
        while True:
            n += len(pings.round_trips(0.5))
            print(n, flush=True)
    flows = Flows(int(sys.argv[2]), int(sys.argv[3]), sys.argv[1] == "push")
    while True:
        flows.rate(0.1)
        print(flows.moved, flush=True)


if __name__ == "__main__":
    main()
