"""A longer and narrower way to a TCP port: a relay that adds delay and limits the bandwidth.

    netproxy.py LISTEN_HOST:PORT TARGET_HOST:PORT BYTES_PER_SECOND DELAY_SECONDS

Each direction is one link that all connections share: bytes leave it at the given rate, in the order
they came, and arrive the delay (one way) after they left. What waits in front of a link is limited to
QUEUE bytes; beyond that nothing is read, so TCP pushes back. The kernel's own queues here are kept
small. Prints "up" once it listens.
"""
import collections
import contextlib
import select
import socket
import struct
import sys
import time

QUEUE = 64 << 10  # bytes that wait in front of a link
PIECE = 16 << 10  # read at once


class Link:
    """One direction of the narrow way."""

    def __init__(self, rate, delay):
        self.rate, self.delay = rate, delay
        self.free_at = 0.0  # when all that was taken has left

    def room(self, now):
        return (self.free_at - now) * self.rate < QUEUE

    def take(self, now, n):
        """n bytes go in: when they arrive."""
        self.free_at = max(self.free_at, now) + n / self.rate
        return self.free_at + self.delay


class Way:
    """One direction of one connection."""

    def __init__(self, src, dst, link):
        self.src, self.dst, self.link = src, dst, link
        self.flying = collections.deque()  # [arrival, bytes]; b"" is the end of stream
        self.eof = self.done = False

    def fill(self, now):
        data = self.src.recv(PIECE)
        self.eof = not data
        self.flying.append([self.link.take(now, len(data)), memoryview(data)])

    def deliver(self, now):
        """True if dst takes no more now."""
        while self.flying and self.flying[0][0] <= now:
            data = self.flying[0][1]
            if not data:
                self.dst.shutdown(socket.SHUT_WR)
                self.done = True
            else:
                try:
                    n = self.dst.send(data)
                except BlockingIOError:
                    return True
                if n < len(data):
                    self.flying[0][1] = data[n:]
                    return True
            self.flying.popleft()
        return False


def small(sock):
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 128 << 10)
    return sock


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


class Proxy:
    def __init__(self, listen, target, rate, delay):
        self.target = address(target)
        self.links = [Link(rate, delay), Link(rate, delay)]
        self.listener = small(socket.socket())
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(address(listen))
        self.listener.listen(64)
        self.pairs = []  # of ways

    def accept(self):
        a = self.listener.accept()[0]
        b = small(socket.socket())
        try:
            b.connect(self.target)
        except OSError:
            self.reset(a, b)
            return
        for s in (a, b):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.setblocking(False)
        self.pairs.append((Way(a, b, self.links[0]), Way(b, a, self.links[1])))

    def reset(self, *socks):
        for s in socks:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()

    def turn(self):
        now = time.monotonic()
        wake_at, full = now + 1.0, False
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        readers = {}
        wanted = collections.defaultdict(int)
        for pair in list(self.pairs):
            try:
                for way in pair:
                    if way.deliver(now):
                        wanted[way.dst.fileno()] |= select.POLLOUT
                    elif way.flying:
                        wake_at = min(wake_at, way.flying[0][0])
                    if not way.eof and way.link.room(now):
                        wanted[way.src.fileno()] |= select.POLLIN
                        readers[way.src.fileno()] = pair, way
                    full = full or not way.link.room(now)
            except OSError:
                self.drop(pair)
                continue
            if pair[0].done and pair[1].done:
                self.pairs.remove(pair)
                pair[0].src.close()
                pair[0].dst.close()
        for fd, events in wanted.items():
            with contextlib.suppress(OSError):
                poll.register(fd, events)
        if full:
            wake_at = min(wake_at, now + 0.001)
        for fd, events in poll.poll(max(0.0, wake_at - now) * 1000):
            if fd == self.listener.fileno():
                self.accept()
            elif fd in readers and events & ~select.POLLOUT:
                pair, way = readers[fd]
                if pair in self.pairs:
                    try:
                        if way.link.room(time.monotonic()):
                            way.fill(time.monotonic())
                    except BlockingIOError:
                        pass
                    except OSError:
                        self.drop(pair)

    def drop(self, pair):
        self.pairs.remove(pair)
        self.reset(pair[0].src, pair[0].dst)


if __name__ == "__main__":
    proxy = Proxy(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    print("up", flush=True)
    while True:
        proxy.turn()
