"""Many streams in one tunnel: none lives at the expense of others, and none leaves anything behind."""
import concurrent.futures
import contextlib
import hashlib
import os
import socket
import struct
import threading
import time

import pytest
import traffic
from forwards import connect, create, create_argv, url
from lab import BIN, FULL, HOST, REMOTE, SAN, run, wait_for

pytestmark = pytest.mark.tunnel

HERE = os.path.dirname(os.path.abspath(__file__))
MB = 1 << 20


NAMES = ("echo", "source", "sink", "duplex", "deaf")


class Ports:
    """Where the services are, or the ports that are forwarded to them; consecutive."""

    def __init__(self, lab):
        for name in NAMES:
            setattr(self, name, lab.free_port())
        self.range = f"{self.echo}-{self.deaf}"


@pytest.fixture(scope="module")
def services(session_lab):
    """The targets on the remote host."""
    s, lab = Ports(session_lab), session_lab
    p = lab.program("traffic", ["/usr/bin/python3", HERE + "/traffic.py", "serve"] +
                    [f"{name}={getattr(s, name)}" for name in NAMES], remote=True)
    p.keep = True
    wait_for(lambda: p.text().count("up") == len(NAMES), what="services")
    yield s
    p.kill()


class Via:
    """Something that is reached at another port than its own."""

    def __init__(self, host, port):
        self.host, self.port, self.address = host, port, f"{host}:{port}"


def narrow(lab, port, delay, rate, to=REMOTE):
    """The narrow way to a port of the remote host, for that many bytes a second."""
    via = Via(HOST, lab.free_port())
    p = lab.program("netproxy", ["/usr/bin/python3", HERE + "/netproxy.py", f"{REMOTE}:{via.port}",
                                 f"{to}:{port}", rate, delay], remote=True)
    wait_for(lambda: "up" in p.text(), what="netproxy")
    return via


def forward(lab, services, guest=None, *flags):
    """All services through one tunnel."""
    port = Ports(lab)
    port.program = create(lab, f"tcp:127.0.0.1:{port.range}", url(lab, f"tcp:127.0.0.1:{services.range}", guest), *flags)
    return port


def reset(c):
    """Closes it so that the other side sees a reset."""
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def metric(lab, guest, name):
    pki = lab.pki
    text = run("curl", "-sSf", "--cert", pki.crt("client"), "--key", pki.key("client"), "--cacert", pki.crt("ca"),
               f"https://{guest.address}/metrics").stdout
    return int([line for line in text.splitlines() if line.startswith(name + " ")][0].split()[1])


# -- throughput --------------------------------------------------------------------------------------

def quiet(lab, guest):
    """Waits until no more bytes go through the guest's tunnels."""
    def seen():
        return [metric(lab, guest, f"tstunnel_{way}_bytes_total") for way in ("received", "sent")]
    last, since = seen(), time.monotonic()

    def is_quiet():
        nonlocal last, since
        now = seen()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.3
    wait_for(is_quiet, 20, "no more goes through the tunnel")


@contextlib.contextmanager
def stalled(lab, guest, port, push):
    """A stream whose reader has stopped to read, and into which no more goes."""
    with socket.socket() as c:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        c.connect(("127.0.0.1", port))
        if push:
            c.settimeout(1)
            with contextlib.suppress(TimeoutError):
                while True:
                    c.sendall(traffic.PIECE)
        quiet(lab, guest)
        yield
        reset(c)


def rate_of(port, push):
    """What four streams get."""
    flows = traffic.Flows(port.sink if push else port.source, 4, push)
    flows.rate(0.5)
    rate = flows.rate(1)
    flows.close()
    return rate


@pytest.mark.parametrize("push", [False, True], ids=["down", "up"])
def test_a_stalled_reader_stops_nobody_else(lab, services, push):
    """Four streams on a narrow way, with and without a fifth that nobody reads."""
    guest = lab.start_guest()
    port = forward(lab, services, narrow(lab, guest.port, 0.005, 6e6))
    ratios = []
    while len(ratios) < 3 and max(ratios, default=0) < 0.95:
        free = rate_of(port, push)
        quiet(lab, guest)
        with stalled(lab, guest, port.deaf if push else port.source, push):
            ratios.append(rate_of(port, push) / free)
        quiet(lab, guest)
    print("ratios", ratios)
    assert max(ratios) >= 0.95


def test_a_reset_behind_a_stalled_reader(lab, services):
    """The client goes while its bytes wait for a target that does not read: nothing of it stays."""
    guest = lab.start_guest()
    port = forward(lab, services, guest)
    with stalled(lab, guest, port.deaf, push=True):
        assert metric(lab, guest, "tstunnel_streams") == 1
    wait_for(lambda: metric(lab, guest, "tstunnel_streams") == 0, what="stream gone")


# -- delay -------------------------------------------------------------------------------------------

def p99(sorted_times):
    return sorted_times[len(sorted_times) * 99 // 100]


@contextlib.contextmanager
def bulk(lab, port, push):
    """A bulk stream of another process."""
    p = lab.program("bulk", ["/usr/bin/python3", HERE + "/traffic.py", "push" if push else "pull",
                             port.sink if push else port.source, 1])
    try:
        wait_for(lambda: len(p.text().split()) > 10 and int(p.text().split()[-1]) > 2 * MB, 20, "bulk moves")
        yield p
        assert p.alive(), p.text()[-500:]
    finally:
        p.kill()


@pytest.mark.parametrize("push", [False, True], ids=["down", "up"])
def test_bulk_beside_100_interactive_streams(lab, services, push):
    """100 Mbit/s and 100 ms there and back: what waits before an answer must not double that."""
    guest = lab.start_guest()
    port = forward(lab, services, narrow(lab, guest.port, 0.05, 12.5e6))
    pings = traffic.Pings(port.echo, 100, 0.05)
    pings.round_trips(0.3)
    ratios = []
    while len(ratios) < 3 and min(ratios, default=9) > 2:
        alone = pings.round_trips(2)
        with bulk(lab, port, push) as p:
            before = int(p.text().split()[-1])
            beside = pings.round_trips(2)
            moved = int(p.text().split()[-1]) - before
        quiet(lab, guest)
        assert moved > 2 * MB
        ratios.append(p99(beside) / p99(alone))
        print(f"p99 {p99(alone) * 1e3:.1f} -> {p99(beside) * 1e3:.1f} ms beside {moved / 2e6:.1f} MB/s")
    pings.close()
    assert min(ratios) <= 2


# -- ends --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mtls", [True, False], ids=["tls", "plain"])
def test_half_close_amid_data_of_both_ways(lab, services, mtls):
    """The client's end comes while both sides still send: what it sent arrives whole, and what comes
    after its end, too."""
    if mtls:
        port = forward(lab, services).duplex
    else:
        dst = f"tstunnel://{lab.ensure_plain_guest().address}/tcp:127.0.0.1:{services.duplex}"
        port = create(lab, "tcp:127.0.0.1:0", dst).port
    sent = os.urandom(3 * MB)

    def one(_):
        with connect(port) as c:
            got = [c.recv(MB)]
            feeder = threading.Thread(target=lambda: (c.sendall(sent), c.shutdown(socket.SHUT_WR)))
            feeder.start()
            while data := c.recv(MB):
                got.append(data)
            feeder.join()
        got = b"".join(got)
        assert got[-64:] == hashlib.sha256(sent).hexdigest().encode()
        pattern = traffic.PIECE * (len(got) // len(traffic.PIECE) + 1)
        assert pattern.startswith(got[:-64])
        return True
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(16)))


# -- nothing is left behind --------------------------------------------------------------------------

def churn(port, n):
    """n connections that end in all the ways there are, 100 at a time."""
    for first in range(0, n, 100):
        conns = [connect(port) for _ in range(100)]
        for i, c in enumerate(conns):
            if i % 4:
                c.sendall(b"x")
        for i, c in enumerate(conns):
            if i % 4 > 1:
                assert c.recv(1) == b"x"
        for i, c in enumerate(conns):
            if i % 2:
                c.close()
            else:
                reset(c)


def test_connects_and_disconnects_beside_1000_streams(lab, services):
    guest = lab.start_guest()
    port = forward(lab, services, guest)
    movers = lab.program("pings", ["/usr/bin/python3", HERE + "/traffic.py", "ping", port.echo, 1000])

    def answers():
        assert movers.alive(), movers.text()[-1000:]
        return int((movers.text().split() or ["0"])[-1])
    wait_for(lambda: answers() > 1000, 30, "1,000 streams move")
    both = (port.program, guest)
    fds = [len(os.listdir(f"/proc/{p.pid}/fd")) for p in both]

    def settled():
        return metric(lab, guest, "tstunnel_streams") == 1000 and \
            all(len(os.listdir(f"/proc/{p.pid}/fd")) <= n for p, n in zip(both, fds))

    def kilobytes():
        return [p.memory("RssAnon") * 1024 for p in both]
    per_round = 25000 if FULL else 2500
    base = None
    for _ in range(4):
        before = answers()
        churn(port.echo, per_round)
        wait_for(settled, 20, "streams and descriptors as before")
        wait_for(lambda: answers() > before, 20, "the 1,000 streams go on")
        if base is None:
            time.sleep(1.5)  # it is given back a second after the storm
            base = kilobytes()
    if not SAN:  # 32 bytes each would be 240
        wait_for(lambda: all(now < then + 200 for now, then in zip(kilobytes(), base)), 10,
                 f"memory as before ({base}, now {kilobytes()})")
    movers.kill()


def lives(c):
    c.sendall(b"still here")
    got = b""
    while len(got) < 10:
        got += c.recv(10)
    return got == b"still here"


# -- memory ------------------------------------------------------------------------------------------

def anon(program):
    """Bytes of its own that a program holds."""
    return program.memory("RssAnon") * MB


def given_back(program, before):
    wait_for(lambda: anon(program) < before + MB // 2, 10, f"{program.name} gives memory back")


def test_idle_connections_cost_little(lab, services):
    n = 9000 if FULL else 2000
    traffic.raise_limit()
    guest = lab.start_guest()
    port = forward(lab, services, guest)
    both = (port.program, guest)
    for p in both:
        # Beside the pages of code, which all programs that run the same libraries share.
        SAN or wait_for(lambda: p.memory("RssAnon") < 1, 10, f"{p.name} is small at rest")
    base = [anon(p) for p in both]
    conns = [connect(port.echo) for _ in range(n)]
    for c in conns:
        c.sendall(b"x")
    assert all(c.recv(1) == b"x" for c in conns)
    if not SAN:  # what opening needed for a moment is gone again soon
        for p, before in zip(both, base):
            wait_for(lambda: anon(p) - before < 1024 * n, 10, f"{p.name}: 1 KiB each")
            print(f"{p.name}: {(anon(p) - before) / n:.0f} bytes each")
    assert all(lives(c) for c in conns)
    for c in conns:
        c.close()
    wait_for(lambda: metric(lab, guest, "tstunnel_streams") == 0, 30, "all are gone")
    if not SAN:
        for p, before in zip(both, base):
            given_back(p, before)


def test_thousands_of_ports(lab, services):
    dst = f"tstunnel://{lab.ensure_plain_guest().address}/tcp:127.0.0.1:"
    one = create(lab, "tcp:127.0.0.1:0", f"{dst}{services.echo}")
    first, n = 24000, 5000
    start = time.monotonic()
    many = create(lab, f"tcp:127.0.0.1:{first}-{first + n - 1}", f"{dst}{services.echo}-{services.echo + n - 1}")
    wait_for(lambda: many.text().count(" -> ") == n, what="all ports")
    print(f"{n} ports after {(time.monotonic() - start) * 1e3:.0f} ms, {(anon(many) - anon(one)) / n:.0f} bytes each")
    assert len(os.listdir(f"/proc/{many.pid}/fd")) < n + 20
    assert SAN or anon(many) - anon(one) < 256 * n
    with connect(first) as c:  # the echo
        assert lives(c)
    with pytest.raises(ConnectionError), connect(first + n - 1) as c:  # nobody there
        c.recv(1)


# -- out of descriptors ------------------------------------------------------------------------------

LIMIT = 100


def fill(port):
    """Connections until there are no more: those that are served."""
    served = []
    for _ in range(LIMIT + 50):
        with contextlib.suppress(ConnectionError):
            c = connect(port)
            c.sendall(b"x")
            assert c.recv(1) == b"x"
            served.append(c)
    assert LIMIT // 2 < len(served) < LIMIT
    return served


def goes_on(port, served):
    """Those inside are served, and as many as leave can come in."""
    assert all(lives(c) for c in served)
    for c in served[:10]:
        c.close()

    def works():
        with contextlib.suppress(ConnectionError):
            with connect(port) as c:
                return lives(c)
    wait_for(works, 10, "new connections work")
    assert all(lives(c) for c in served[10:])
    for c in served[10:]:
        c.close()


def test_tsctl_out_of_descriptors(lab, services):
    argv = create_argv("--foreground", "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}"))
    p = lab.program("forward", ["prlimit", f"--nofile={LIMIT // 2}:{LIMIT}"] + argv)  # raised to the hard limit
    line = wait_for(lambda: [x for x in p.text().splitlines() if " -> " in x], what="forward")[0]
    port = int(line.split(" -> ")[0].rsplit(":")[-1])
    served = fill(port)
    assert p.text().count("listen refusing connections") == 1
    assert "too many open files" in p.text().lower()
    goes_on(port, served)
    assert p.text().count("listen refusing connections") == 1


def test_guest_out_of_descriptors(lab, services):
    at = Via(HOST, lab.free_port())
    g = lab.program("guest", ["prlimit", f"--nofile={LIMIT // 2}:{LIMIT}", BIN + "/guest", "--listen", f"{REMOTE}:{at.port}"] +
                    lab.mtls_guest_flags(), remote=True)
    g.wait_listening(REMOTE, at.port)
    port = forward(lab, services, at)
    served = fill(port.echo)
    assert g.text().count("dial out-of-descriptors") == 1
    assert "too many open files" in port.program.text().lower()  # the reason is told at the other end
    goes_on(port.echo, served)
    assert g.text().count("dial out-of-descriptors") == 1
