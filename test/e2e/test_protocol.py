"""tstunnel/1 by hand: what docs/protocol.md promises to another client, and what the guest does with
one that breaks the rules."""
import contextlib
import json
import socket
import struct

import pytest
from lab import BIN, LAPTOP, REMOTE, run, wait_for
from wire import (ASK, CANCELLED, CREDIT, Carrier, DATA, DENIED, FIN, GOAWAY, INTERNAL,
                  NOT_FOUND, NOWHERE, OPEN, OPENED, PING, PONG, REFUSED, RESET, SETTINGS, STOP, TIMEOUT,
                  WINDOW, echo, flood, frame, listening, raw, request)

pytestmark = pytest.mark.tunnel


@pytest.fixture
def guest(plain_guest):
    return plain_guest


@pytest.fixture
def carrier(guest):
    with Carrier(guest) as c:
        assert c.status.startswith(b"HTTP/1.1 101 ")
        yield c


@pytest.fixture
def tcp():
    with listening(None, echo) as address:
        yield address


@pytest.fixture
def unix(lab):
    with listening(lab.path(lab.name() + ".sock"), echo) as address:
        yield address


# -- the handshake ---------------------------------------------------------------------------------


def test_no_upgrade_is_426(guest):
    assert request(guest, "GET", "/tinyscale/v1/tunnel")[0] == 426
    assert request(guest, "GET", "/tinyscale/v1/tunnel", headers={"Connection": "Upgrade", "Upgrade": "tstunnel/2"})[0] == 426
    assert request(guest, "POST", "/tinyscale/v1/tunnel")[0] == 405


def test_settings_come_first(carrier):
    carrier.pull()
    type, stream, flags, channel, payload = carrier.kept[0]
    assert (type, stream, flags, channel) == (SETTINGS, 0, 0, 0)
    assert json.loads(payload)["version"] == 1 and json.loads(payload)["max_streams"] == 16384


def test_frames_in_the_packet_of_the_request(guest, tcp):
    """Against the protocol's word to wait for the 101, but what came early is not lost."""
    with contextlib.closing(socket.create_connection((REMOTE, guest.port), TIMEOUT)) as s:
        s.sendall(ASK + frame(SETTINGS, payload=b"{}") + frame(PING, payload=b"12345678"))
        got = b""
        while frame(PONG, payload=b"12345678") not in got:
            chunk = s.recv(65536)
            assert chunk, got
            got += chunk


def test_plain_http_on_a_tls_port(lab):
    before = lab.guest.text().count("connection-failed")
    with contextlib.closing(socket.create_connection((REMOTE, lab.guest.port), TIMEOUT)) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(1) == b"\x15", "no TLS alert"
    wait_for(lambda: lab.guest.text().count("connection-failed") > before, 5, "a line in the log")


# -- kinds -----------------------------------------------------------------------------------------


def test_tcp_with_early_data_and_half_close(carrier, tcp):
    n = carrier.open(b"early ", kind="tcp", address=tcp)
    assert carrier.wait(OPENED, n) in (b"", b"{}")
    assert carrier.data(n, 6) == b"early "
    carrier.send(DATA, n, b"late")
    assert carrier.data(n, 4) == b"late"
    carrier.send(FIN, n)
    assert carrier.data(n, 3) == b"bye", "nothing came after our end of stream"
    carrier.wait(FIN, n)


def test_half_close_from_the_far_side(lab, carrier):
    """The target ends its direction first; ours goes on."""
    heard = []

    def serve(c):
        c.shutdown(socket.SHUT_WR)
        while chunk := c.recv(65536):
            heard.append(chunk)
    with listening(None, serve) as address:
        n = carrier.open(kind="tcp", address=address)
        carrier.wait(FIN, n)
        carrier.send(DATA, n, b"after your end")
        carrier.send(FIN, n)
        wait_for(lambda: b"".join(heard) == b"after your end", 5, "the target hears us")


def test_target_reset_is_a_reset(carrier):
    def serve(c):
        c.recv(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
    with listening(None, serve) as address:
        n = carrier.open(kind="tcp", address=address)
        carrier.wait(OPENED, n)
        carrier.send(DATA, n, b"x")
        assert carrier.refusal(n)[0] == CANCELLED


def test_unix(carrier, unix):
    n = carrier.open(b"hello", kind="unix", address=unix)
    assert carrier.data(n, 5) == b"hello"


def test_docker(lab, unix):
    """The guest's own engine, and another by its address."""
    with listening(None, lambda c: c.sendall(b"other engine")) as other:
        g = lab.start_guest("--docker", unix, mtls=False)
        with Carrier(g) as c:
            n = c.open(b"own", kind="docker")
            assert c.data(n, 3) == b"own"
            n = c.open(kind="docker", address="tcp://" + other)
            assert c.data(n, 12) == b"other engine"
            n = c.open(b"x", kind="docker", address=unix)
            assert c.data(n, 1) == b"x"


@pytest.mark.parametrize("spec,code,sentence", [
    ({"kind": "telex", "address": "localhost:1"}, NOT_FOUND, 'kind "telex"'),
    ({"kind": "udp", "address": "tcp:localhost:1"}, INTERNAL, "another kind"),
    ({"kind": "udp"}, INTERNAL, '"address" is missing'),
    ({"kind": "listen"}, INTERNAL, '"address" is missing'),
    ({"kind": "listen", "address": "localhost"}, INTERNAL, "missing port"),
    ({"kind": "accepted", "listen": 1}, NOT_FOUND, 'kind "accepted"'),
    ({"kind": ""}, NOT_FOUND, "kind"),
    ({"address": "localhost:1"}, INTERNAL, "malformed OPEN"),
    ({"kind": 5}, INTERNAL, "malformed OPEN"),
    ({"kind": "tcp"}, INTERNAL, '"address"'),
    ({"kind": "tcp", "address": "localhost"}, INTERNAL, "missing port"),
    ({"kind": "tcp", "address": "udp:localhost:1"}, INTERNAL, "another kind"),
    ({"kind": "tcp", "address": "unix:///x"}, INTERNAL, "another kind"),
    ({"kind": "unix", "address": "localhost:1"}, INTERNAL, "another kind"),
    ({"kind": "unix", "address": "unix:///no/such.sock"}, NOT_FOUND, "dial unix /no/such.sock: no such file or directory"),
    ({"kind": "docker", "address": 5}, INTERNAL, "malformed"),
    ({"kind": "docker", "address": "udp:localhost:1"}, INTERNAL, "malformed"),
    ({"kind": "tcp", "address": REMOTE + ":1"}, REFUSED, f"dial tcp {REMOTE}:1: connection refused"),
    ({"kind": "tcp", "address": "no-such-host.invalid:1"}, None, "lookup no-such-host.invalid"),
    ({"kind": "exec", "command": "no-such-command"}, NOT_FOUND, "executable file not found"),
    ({"kind": "exec", "command": "true", "colour": 1}, INTERNAL, "colour"),
])
def test_refusals(carrier, spec, code, sentence):
    got, text = carrier.refusal(carrier.open(**spec))
    assert sentence in text
    assert code is None or got == code, text
    assert carrier.alive()


def test_open_that_is_no_object(carrier):
    for n, payload in enumerate((b"[]", b"{}x", b"nonsense", b'{"kind":"tcp","kind":"exec"}')):
        carrier.send(OPEN, 2 * n + 1, payload)
        code, text = carrier.refusal(2 * n + 1)
        assert (code, text.startswith("malformed OPEN")) == (INTERNAL, True), text


# -- policy ----------------------------------------------------------------------------------------


@pytest.fixture
def narrow(lab, tcp, unix):
    """A guest that allows one port and one socket, and no commands."""
    port = tcp.rpartition(":")[2]
    g = lab.start_guest("--no-exec", "--allow-tcp", f"{LAPTOP}:{port}", "--allow-tcp", "[fd00::1]:8000-8100",
                        "--allow-unix", unix[len("unix://"):], mtls=False)
    with Carrier(g) as c:
        c.guest = g
        yield c


def test_policy_allows(narrow, tcp, unix):
    for spec in ({"kind": "tcp", "address": tcp}, {"kind": "unix", "address": unix},
                 {"kind": "docker", "address": unix}, {"kind": "docker", "address": tcp}):
        assert narrow.data(narrow.open(b"x", **spec), 1) == b"x"
    # Allowed, so that what fails is the dialling: no such network here.
    assert narrow.refusal(narrow.open(kind="tcp", address="[fd00::1]:8080"))[0] != DENIED


def test_policy_denies(narrow, tcp, unix):
    host, _, port = tcp.rpartition(":")
    for address in (f"{host}:{int(port) - 1}", f"localhost:{port}", f"127.0.0.1:{port}", f":{port}", f"{host}.:{port}",
                    f"[::ffff:{host}]:{port}", "[fd00::1]:8101", "[fd00::2]:8080"):
        code, text = narrow.refusal(narrow.open(kind="tcp", address=address))
        assert (code, "--allow-tcp" in text) == (DENIED, True), (address, text)
    for path in ("/run/docker.sock", unix[len("unix://"):] + "x", unix[len("unix:/"):]):
        for kind in ("unix", "docker"):
            code, text = narrow.refusal(narrow.open(kind=kind, address="unix://" + path))
            assert (code, "--allow-unix" in text) == (DENIED, True), (path, text)
    assert narrow.refusal(narrow.open(kind="docker", address="tcp://localhost:1"))[0] == DENIED
    code, text = narrow.refusal(narrow.open(kind="exec", command="true"))
    assert (code, "exec is not allowed" in text) == (DENIED, True)


@pytest.mark.parametrize("flag,value", [
    ("--allow-tcp", "host"), ("--allow-tcp", ":80"), ("--allow-tcp", "host:0"), ("--allow-tcp", "host:9-8"),
    ("--allow-tcp", "host:65536"), ("--allow-tcp", "a:1,b:2"), ("--allow-tcp", "tcp://h:1"), ("--allow-tcp", "*.h:1"),
    ("--allow-unix", "run/x.sock"), ("--allow-unix", "unix:///x"), ("--sync-root", "srv"),
])
def test_rules_that_cannot_match_are_refused(lab, flag, value):
    r = run(BIN + "/guest", "--listen", "127.0.0.1:0", flag, value, check=False, env=lab.env, timeout=10)
    assert r.returncode == 1 and flag in r.stderr and value in r.stderr


# -- credit ----------------------------------------------------------------------------------------


def test_all_of_the_credit_may_be_used_at_once(carrier):
    n = carrier.open(b"x" * CREDIT, kind="tcp", address=NOWHERE)
    assert carrier.alive() and not [f for f in carrier.kept if f[1] == n]


def test_data_beyond_the_credit_ends_the_carrier(carrier):
    carrier.open(b"x" * CREDIT, kind="tcp", address=NOWHERE)
    carrier.send(DATA, 1, b"x")
    assert carrier.ends()


def test_credit_is_given_back(carrier, tcp):
    """Far more than the initial window goes through, if one waits for WINDOW."""
    n = carrier.open(kind="tcp", address=tcp)
    credit, left, back = CREDIT, 4 * CREDIT, 0
    while left or back < 4 * CREDIT:
        if left and credit:
            size = min(credit, left, 65536)
            carrier.send(DATA, n, b"x" * size)
            credit, left = credit - size, left - size
        else:
            carrier.pull()
        for f in [f for f in carrier.kept if f[1] == n]:
            carrier.kept.remove(f)
            if f[0] == WINDOW:
                credit += struct.unpack("!I", f[4])[0]
            if f[0] == DATA:
                back += len(f[4])
                carrier.send(WINDOW, n, struct.pack("!I", len(f[4])))
    assert back == 4 * CREDIT


def test_slow_reader_stops_only_itself(carrier, tcp):
    with listening(None, flood) as address:
        slow = carrier.open(kind="tcp", address=address)
        assert len(carrier.data(slow, CREDIT)) == CREDIT
        other = carrier.open(b"x" * 1000, kind="tcp", address=tcp)
        assert carrier.data(other, 1000) == b"x" * 1000
        assert carrier.alive() and not [f for f in carrier.kept if f[:2] == (DATA, slow)], "more than the credit came"
        carrier.send(WINDOW, slow, struct.pack("!I", 1000))
        assert len(carrier.data(slow, 1000)) == 1000
        carrier.send(FIN, slow, flags=STOP)
        assert carrier.alive()


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [
    pytest.param(frame(SETTINGS, payload=b"{}"), id="second SETTINGS"),
    pytest.param(frame(OPEN, 0, b"{}"), id="OPEN on the carrier"),
    pytest.param(frame(OPEN, 2, b"{}"), id="OPEN of the wrong parity"),
    pytest.param(frame(OPEN, 1 << 31 | 1, b"{}"), id="OPEN of too high a number"),
    pytest.param(frame(OPEN, 5, b"{}") + frame(OPEN, 3, b"{}"), id="OPEN out of order"),
    pytest.param(frame(OPEN, 3, b"{}") * 2, id="OPEN twice"),
    pytest.param(frame(OPEN, 1, b""), id="OPEN without JSON"),
    pytest.param(raw(65537, 1, OPEN), id="OPEN too long"),
    pytest.param(frame(DATA, 1, b"x"), id="DATA for no stream"),
    pytest.param(frame(DATA, 0, b"x"), id="DATA on the carrier"),
    pytest.param(raw(1 << 20 | 1, 1, DATA), id="DATA too long"),
    pytest.param(frame(PING, payload=b"short"), id="PING too short"),
    pytest.param(frame(PING, 1, b"12345678"), id="PING on a stream"),
    pytest.param(frame(11), id="unknown type"),
    pytest.param(frame(255), id="unknown type 255"),
    pytest.param(raw(8, 0, PING, flags=1), id="unknown flag"),
    pytest.param(raw(8, 0, PING, channel=1), id="channel on PING"),
    pytest.param(raw(8, 0, PING, last=1), id="last byte"),
    pytest.param(frame(WINDOW, 1, b"\0\0\0\1"), id="WINDOW for no stream"),
    pytest.param(frame(WINDOW, 1, b"\0\0\1"), id="WINDOW of 3 bytes"),
    pytest.param(frame(RESET, 1, b"\0\0"), id="RESET without code"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="HTTP"),
])
def test_bad_frames_end_the_carrier(guest, carrier, bad):
    carrier.sock.sendall(bad)
    assert carrier.ends()
    assert request(guest, "GET", "/health")[0] == 200


@pytest.mark.parametrize("bad", [
    pytest.param(frame(OPENED, 1, b"{}"), id="OPENED by the opener"),
    pytest.param(frame(FIN, 1) + frame(DATA, 1, b"x"), id="DATA after FIN"),
    pytest.param(frame(FIN, 1) * 2, id="FIN twice"),
    pytest.param(frame(FIN, 1, flags=2), id="unknown flag of FIN"),
    pytest.param(frame(FIN, 1, b"x"), id="FIN with payload"),
    pytest.param(frame(DATA, 1, b"x", channel=3), id="channel 3"),
    pytest.param(frame(WINDOW, 1, b"\x7f\xff\xff\xff") * 2, id="credit without end"),
])
def test_bad_frames_on_a_stream_end_the_carrier(carrier, bad):
    carrier.open(kind="tcp", address=NOWHERE)
    carrier.sock.sendall(bad)
    assert carrier.ends()


def test_first_frame_must_be_settings(guest):
    with Carrier(guest, settings=False) as c:
        c.send(PING, payload=b"12345678")
        assert c.ends()


def test_frames_for_a_stream_that_has_ended_are_dropped(carrier):
    n = carrier.open(kind="tcp", address=REMOTE + ":1")
    assert carrier.refusal(n)[0] == REFUSED
    carrier.sock.sendall(frame(DATA, n, b"x") + frame(WINDOW, n, b"\0\0\0\1") + frame(FIN, n) + frame(RESET, n, b"\0\0\0\0"))
    assert carrier.alive()


def test_reset_while_dialling(lab, carrier):
    """The client gives up before the target answers; nothing is left behind."""
    before = carrier.open(kind="tcp", address=NOWHERE)
    for _ in range(20):
        n = carrier.open(b"x", kind="tcp", address=NOWHERE)
        carrier.send(RESET, n, b"\0\0\0\6never mind")
    assert carrier.alive() and not [f for f in carrier.kept if f[1] > before]


def test_goaway_on_sigterm(lab, tcp):
    g = lab.start_guest(mtls=False)
    with Carrier(g) as busy, Carrier(g) as idle:
        assert idle.alive()
        n = busy.open(b"x", kind="tcp", address=tcp)
        assert busy.data(n, 1) == b"x"
        g.expect_death = True
        g.signal(15)
        assert struct.unpack("!I", busy.wait(GOAWAY)[:4])[0] == n
        assert idle.ends(), "an idle tunnel holds nobody up"
        busy.send(DATA, n, b"still here")
        assert busy.data(n, 10) == b"still here"
        late = busy.open(kind="tcp", address=tcp)
        assert busy.refusal(late)[0] == CANCELLED
        busy.send(FIN, n)
        assert busy.data(n, 3) == b"bye"
        assert busy.ends()
    assert g.wait(TIMEOUT) == 0


def test_second_sigterm_does_not_wait(lab, tcp):
    g = lab.start_guest("--grace", "60s", mtls=False)
    with Carrier(g) as c:
        assert c.data(c.open(b"x", kind="tcp", address=tcp), 1) == b"x"
        g.expect_death = True
        g.signal(15)
        c.wait(GOAWAY)
        g.signal(15)
        assert c.ends()
    assert g.wait(TIMEOUT) == 0
