"""The way between the two hosts: long and narrow, cut, and back again."""
import contextlib
import socket
import time

import pytest
import traffic
from lab import FULL, HOST, REMOTE, run, wait_for
from test_fairness import forward, narrow, quiet, services  # noqa: F401 (a fixture)

pytestmark = pytest.mark.tunnel

MB = 1 << 20


# -- long and narrow ---------------------------------------------------------------------------------

def rate(flows, seconds):
    """Once windows had a second, ten round trips, to grow."""
    flows.rate(1)
    try:
        return flows.rate(seconds)
    finally:
        flows.close()


BANDWIDTH, DELAY = 8e6, 0.05  # bytes a second; seconds one way


@pytest.mark.parametrize("push", [False, True], ids=["down", "up"])
def test_one_stream_fills_a_long_way(lab, services, push):  # noqa: F811
    """64 Mbit/s and 100 ms there and back: one stream gets 80 % of what TCP alone gets there. With the
    window that a stream starts with it would be 2.6 MB/s."""
    guest, seconds = lab.start_guest(), 8 if FULL else 2
    target = services.sink if push else services.source
    direct = narrow(lab, target, DELAY, BANDWIDTH, "127.0.0.1")
    port = forward(lab, services, narrow(lab, guest.port, DELAY, BANDWIDTH))
    ratios = []
    while len(ratios) < 3 and max(ratios, default=0) < 0.8:
        alone = rate(traffic.Flows(direct.port, 1, push, HOST), seconds)
        tunnelled = rate(traffic.Flows(port.sink if push else port.source, 1, push), seconds)
        quiet(lab, guest)
        assert tunnelled < 1.1 * BANDWIDTH + 2 * MB / seconds
        print(f"{tunnelled / 1e6:.1f} MB/s, TCP alone {alone / 1e6:.1f}")
        ratios.append(tunnelled / alone)
    assert max(ratios) >= 0.8


def test_the_narrow_way_is_narrow(lab, services):  # noqa: F811
    """The proxy of these tests, alone: it neither loses much bandwidth nor gives more, and delays."""
    way = narrow(lab, services.source, DELAY, BANDWIDTH, "127.0.0.1")
    flows = traffic.Flows(way.port, 1, False, HOST)
    flows.rate(1)
    seen = []
    while len(seen) < 5 and max(seen, default=0) < 0.8 * BANDWIDTH:
        seen.append(flows.rate(1))
    flows.close()
    assert 0.8 * BANDWIDTH < max(seen) < 1.1 * BANDWIDTH + MB
    way = narrow(lab, services.echo, DELAY, BANDWIDTH, "127.0.0.1")
    pings = traffic.Pings(way.port, 1, 0, HOST)
    took = pings.round_trips(1)
    pings.close()
    assert 2 * DELAY <= took[0] < 2 * DELAY + 0.05


# -- cut ---------------------------------------------------------------------------------------------

@contextlib.contextmanager
def cut(guest, how):
    """Nothing passes between here and the guest's port: it vanishes (DROP), or is refused."""
    rules = [["OUTPUT", "-d", REMOTE, "-p", "tcp", "--dport", str(guest.port), "-j"] + how]
    if how == ["DROP"]:
        rules.append(["INPUT", "-s", REMOTE, "-p", "tcp", "--sport", str(guest.port), "-j", "DROP"])
    for r in rules:
        run("iptables", "-I", *r)
    try:
        yield
    finally:
        for r in rules:
            run("iptables", "-D", *r)


DROP, REJECT = ["DROP"], ["REJECT", "--reject-with", "tcp-reset"]


def echo(port, timeout=10):
    c = socket.create_connection(("127.0.0.1", port), timeout)
    c.settimeout(timeout)
    c.sendall(b"hello")
    assert c.recv(5) == b"hello"
    return c


def until_it_works(port):
    """Seconds until a new connection is served."""
    start = time.monotonic()
    while time.monotonic() < start + 20:
        with contextlib.suppress(OSError):
            echo(port, 5).close()
            return time.monotonic() - start
        time.sleep(0.01)
    raise AssertionError("new connections do not work")


def is_reset(c):
    with contextlib.suppress(ConnectionResetError):
        c.recv(1)
        return False
    return True


def resets(port):
    """Somebody listens, but has nothing to offer."""
    try:
        return is_reset(socket.create_connection(("127.0.0.1", port), 10))
    except ConnectionResetError:
        return True  # quicker than connect()'s return


def test_carrier_cut_and_back(lab, services):  # noqa: F811
    guest = lab.start_guest()
    port = forward(lab, services, guest)
    c = echo(port.echo)
    c.settimeout(20)
    start = time.monotonic()
    with cut(guest, DROP):
        assert is_reset(c)
        noticed = time.monotonic() - start
        assert noticed < 10
        # While the network is away, TCP repeats its SYN ever more seldom: after 5.5 s, the next one
        # would be 1.5 s away.
        time.sleep(5.5)
    back = until_it_works(port.echo)

    c = echo(port.echo)
    with cut(guest, REJECT):
        c.sendall(b"into the void")
        assert is_reset(c)
        assert resets(port.echo)
        time.sleep(1)  # the redials become more seldom
    again = until_it_works(port.echo)
    print(f"dead peer noticed after {noticed:.1f} s, works {back:.2f} s after DROP, {again:.2f} s after REJECT")
    assert back < 1 and again < 1
    assert port.program.alive()
