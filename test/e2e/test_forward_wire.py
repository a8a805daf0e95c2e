"""The stream kinds udp and listen by hand: what docs/protocol.md promises to another client."""
import json
import socket
import struct

import pytest
from lab import LAPTOP, REMOTE, can_connect, wait_for
from wire import (CANCELLED, CONTROL, Carrier, DATA, DENIED, FIN, INTERNAL, OPEN, OPENED, REFUSED, RESET, STOP,
                  TOO_MANY, frame)

pytestmark = pytest.mark.tunnel


@pytest.fixture(scope="module")
def guest(session_lab):
    g = session_lab.start_guest("--allow-listen", "*:*", mtls=False)
    g.keep = True
    yield g
    g.stop()


@pytest.fixture
def carrier(lab, guest):
    with Carrier(guest) as c:
        yield c


@pytest.fixture
def target():
    """A UDP socket of ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((LAPTOP, 0))
        s.settimeout(10)
        yield s


def address_of(s):
    return "%s:%d" % s.getsockname()


def packed(*datagrams):
    return b"".join(struct.pack("!H", len(d)) + d for d in datagrams)


# -- udp ---------------------------------------------------------------------------------------------

def test_datagrams_are_cut_and_joined_at_will(carrier, target):
    n = carrier.open(kind="udp", address=address_of(target))
    carrier.wait(OPENED, n)
    sent = [b"a", b"", b"bc" * 300, b"x" * 60000, b"end"]
    text = packed(*sent)
    for step in (len(text), 60603, 7):
        for i in range(0, len(text), step):
            carrier.send(DATA, n, text[i:i + step])
        for d in sent:
            got, peer = target.recvfrom(65536)
            assert got == d
    for d in sent:
        target.sendto(d, peer)
    assert carrier.data(n, len(text)) == text
    carrier.send(FIN, n, flags=STOP)
    wait_for(lambda: carrier.alive() and any(f[:2] == (FIN, n) for f in carrier.kept), what="its end")


def test_what_comes_with_open_is_not_lost(carrier, target):
    n = carrier.open(packed(b"early", b"bird"), kind="udp", address="udp:" + address_of(target))
    assert target.recv(100) == b"early"
    assert target.recv(100) == b"bird"
    carrier.wait(OPENED, n)
    carrier.send(DATA, n, packed(b"last words") + b"\0")  # and an end inside of a length
    carrier.send(FIN, n)
    assert target.recv(100) == b"last words"
    assert carrier.refusal(n)[0] == INTERNAL


def test_nobody_there(carrier):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((LAPTOP, 0))
        address = address_of(s)
    n = carrier.open(packed(b"x"), kind="udp", address=address)
    carrier.wait(OPENED, n)
    assert carrier.refusal(n) == (REFUSED, f"dial udp {address}: connection refused")
    n = carrier.open(kind="udp", address="no-such-host.invalid:53")
    code, text = carrier.refusal(n)
    assert text.startswith("dial udp: lookup no-such-host.invalid: ")
    assert carrier.alive()


# -- listen ------------------------------------------------------------------------------------------

def listen(carrier, address=f"tcp:{REMOTE}:0", **more):
    """The stream, and the port that was bound."""
    n = carrier.open(kind="listen", address=address, **more)
    bound = json.loads(carrier.wait(OPENED, n))["address"]
    return n, int(bound.rsplit(":")[-1])


def accepted(carrier, listening, n):
    """The n-th stream that the guest opens."""
    stream = 2 * n
    spec = json.loads(carrier.wait(OPEN, stream))
    assert spec["kind"] == "accepted" and spec["listen"] == listening
    return stream, spec["peer"]


def test_a_connection(carrier):
    n, port = listen(carrier)
    with socket.create_connection((REMOTE, port), 10) as c:
        c.settimeout(10)
        s, peer = accepted(carrier, n, 1)
        assert peer == address_of(c)
        c.sendall(b"early")
        assert carrier.data(s, 5) == b"early"  # before OPENED
        carrier.sock.sendall(frame(OPENED, s) + frame(DATA, s, b"hello") + frame(FIN, s))
        assert c.recv(5, socket.MSG_WAITALL) == b"hello" and c.recv(1) == b""
        c.sendall(b"still")
        assert carrier.data(s, 5) == b"still"
    carrier.wait(FIN, s)
    with socket.create_connection((REMOTE, port), 10) as c:
        c.settimeout(10)
        s, _ = accepted(carrier, n, 2)
        carrier.send(RESET, s, struct.pack("!I", REFUSED) + b"nobody is at home")
        with pytest.raises(ConnectionResetError):
            c.recv(1)
        carrier.send(FIN, n, flags=STOP)
        wait_for(lambda: not can_connect(REMOTE, port), what="it listens no more")


def test_connections_outlive_the_listener(carrier):
    n, port = listen(carrier)
    with socket.create_connection((REMOTE, port), 10) as c:
        s, _ = accepted(carrier, n, 1)
        carrier.send(OPENED, s)
        carrier.send(DATA, n, b"data is not for this stream")
        assert carrier.refusal(n)[0] == INTERNAL
        assert not can_connect(REMOTE, port)
        c.sendall(b"on")
        assert carrier.data(s, 2) == b"on"


def test_the_listener_goes_with_the_carrier(lab, guest):
    with Carrier(guest) as c:
        _, port = listen(c)
        assert can_connect(REMOTE, port)
    wait_for(lambda: not can_connect(REMOTE, port), what="it listens no more")


def test_token(guest, carrier):
    n, port = listen(carrier, token="one")
    address = f"tcp:{REMOTE}:{port}"
    with Carrier(guest) as other:
        for more in ({}, {"token": ""}, {"token": "two"}):
            code, text = other.refusal(other.open(kind="listen", address=address, **more))
            assert text == f"cannot listen on {REMOTE}:{port}: address already in use"
        m, same = listen(other, address, token="one")
        assert same == port
        assert carrier.refusal(n) == (CANCELLED, "asked for again")
        with socket.create_connection((REMOTE, port), 10):
            accepted(other, m, 1)
        assert carrier.alive()


def test_messages_and_limits(carrier):
    n, port = listen(carrier)
    carrier.send(CONTROL, n, b'{"what":1}')  # unknown: ignored
    assert carrier.alive() and can_connect(REMOTE, port)
    ports = [carrier.open(kind="listen", address="udp:127.0.0.1:0") for _ in range(1024)]
    for p in ports[:-1]:
        carrier.wait(OPENED, p)
    code, text = carrier.refusal(ports[-1])
    assert code == TOO_MANY and "1024" in text
    code, text = carrier.refusal(carrier.open(kind="listen", address="unix:///run/x.sock"))
    assert code == DENIED  # --allow-listen names no path


def test_datagrams(carrier):
    n, port = listen(carrier, f"udp:{REMOTE}:0", idle_ms=100)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
        c.settimeout(10)
        c.connect((REMOTE, port))
        c.send(b"one")
        s, peer = accepted(carrier, n, 1)
        assert peer == address_of(c)
        assert carrier.data(s, 5) == packed(b"one")
        carrier.send(OPENED, s)
        carrier.send(DATA, s, packed(b"two", b""))
        assert c.recv(100) == b"two" and c.recv(100) == b""
        wait_for(lambda: carrier.alive() and any(f[:2] == (FIN, s) for f in carrier.kept), what="silence ends it")
        c.send(b"three")
        assert carrier.data(accepted(carrier, n, 2)[0], 7) == packed(b"three")
