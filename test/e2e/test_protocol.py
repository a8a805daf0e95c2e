"""tstunnel/1 and the plain endpoints by hand: what docs/protocol.md promises to another client, and
what the guest does with one that breaks the rules."""
import contextlib
import http.client
import json
import os
import select
import socket
import ssl
import stat
import struct
import threading
import time

import pytest
from lab import BIN, HOST, LAPTOP, REMOTE, open_files, run, wait_for

pytestmark = pytest.mark.tunnel

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


@pytest.fixture
def guest(plain_guest):
    return plain_guest


@pytest.fixture
def carrier(guest):
    with Carrier(guest) as c:
        assert c.status.startswith(b"HTTP/1.1 101 ")
        yield c


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


@pytest.fixture
def tcp():
    with listening(None, echo) as address:
        yield address


@pytest.fixture
def unix(lab):
    with listening(lab.path(lab.name() + ".sock"), echo) as address:
        yield address


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


# -- the handshake ---------------------------------------------------------------------------------


def test_no_upgrade_is_426(guest):
    assert request(guest, "GET", "/tinyscale/v1/tunnel")[0] == 426
    assert request(guest, "GET", "/tinyscale/v1/tunnel", headers={"Connection": "Upgrade", "Upgrade": "tstunnel/2"})[0] == 426
    assert request(guest, "POST", "/tinyscale/v1/tunnel")[0] == 405


def test_settings_come_first(carrier):
    carrier.pull()
    type, stream, flags, channel, payload = carrier.kept[0]
    assert (type, stream, flags, channel) == (SETTINGS, 0, 0, 0)
    assert json.loads(payload)["version"] == 1 and json.loads(payload)["max_streams"] == 4096


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
    ({"kind": "udp", "address": "localhost:1"}, NOT_FOUND, 'kind "udp"'),
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


def raw(length, stream, type, flags=0, channel=0, last=0, payload=b""):
    return struct.pack("!IIBBBB", length, stream, type, flags, channel, last) + payload


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


def test_too_many_streams(lab):
    g = lab.start_guest(mtls=False)
    with Carrier(g) as c:
        spec = json.dumps({"kind": "tcp", "address": NOWHERE}).encode()
        c.sock.sendall(b"".join(frame(OPEN, 2 * i + 1, spec) for i in range(4097)))
        assert c.refusal(2 * 4096 + 1)[0] == TOO_MANY
        c.send(RESET, 1, b"\0\0\0\0")
        c.next_id = 2 * 4097 + 1
        code, _ = c.refusal(c.open(kind="nonsense"))
        assert code == NOT_FOUND, "there was a place again"


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


# -- the plain endpoints ---------------------------------------------------------------------------


def test_max_connections(lab):
    g = lab.start_guest("--max-connections", "2", mtls=False)

    def served(keep):
        try:
            s = socket.create_connection((REMOTE, g.port), TIMEOUT)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            ok = s.recv(4096).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False
        if ok and keep:
            return s
        s.close()
        return ok
    # The lab's own look at the port may still count.
    first = wait_for(lambda: served(True), 5)
    second = wait_for(lambda: served(True), 5)
    assert not served(False)
    first.close()
    wait_for(lambda: served(False), 5, "a place again")
    second.close()
    with Carrier(g) as a, Carrier(g) as b:
        assert a.alive() and b.alive()
        with Carrier(g, settings=False) as c:
            assert c.status.startswith(b"HTTP/1.1 503 ")


@pytest.fixture
def rooted(lab):
    """A guest that runs no commands and takes files into one directory."""
    root = lab.path(lab.name())
    os.mkdir(root)
    g = lab.start_guest("--no-exec", "--sync-root", root, mtls=False)
    g.root = root
    return g


def copy(guest, path, mode="0644", body=b"new"):
    return request(guest, "POST", f"/tinyscale/v1/host-exec/copy?path={path}&mode={mode}", body)[0]


def directories(guest, *paths):
    return request(guest, "POST", "/tinyscale/v1/host-exec/directories", json.dumps(paths))[0]


def test_sync_root(rooted):
    root = rooted.root
    assert directories(rooted, root, root + "/a/b", root + "//a/./c/") == 200
    assert copy(rooted, root + "/a/b/file", "0600") == 200
    assert open(root + "/a/b/file").read() == "new" and os.stat(root + "/a/b/file").st_mode & 0o7777 == 0o600
    assert copy(rooted, root + "/a/b/tool", "4755") == 200
    assert stat.S_IMODE(os.stat(root + "/a/b/tool").st_mode) == 0o755, "a set-user-id program from who may run none"
    assert copy(rooted, root + "/a") == 409 and copy(rooted, root + "/none/x") == 404
    assert copy(rooted, f"{root}/{'n' * 256}") == 400 and copy(rooted, f"{root}/{'n' * 256}/x") == 400
    assert sorted(os.listdir(root + "/a/b")) == ["file", "tool"], "a temporary file stayed"


def test_nothing_outside_the_sync_root(lab, rooted):
    root, out = rooted.root, lab.path(lab.name())
    os.mkdir(out)
    os.mkdir(rooted.root + "-sibling")
    os.symlink(out, root + "/link")
    with open(out + "/target", "w") as f:
        f.write("old")
    os.symlink(out + "/target", root + "/last")
    for path in (out + "/x", "/x", root + "-sibling/x", f"{root}/../{os.path.basename(out)}/x", root + "/link/x",
                 root + "/link/../x", f"{root}/link//x", root):
        assert copy(rooted, path) in (400, 403, 404), path
        assert directories(rooted, path + "/d") in (400, 403, 404) or path == root, path
    assert os.listdir(out) == ["target"] and os.listdir(root + "-sibling") == []
    assert copy(rooted, root + "/last") == 200
    assert open(out + "/target").read() == "old", "written through a symlink"
    assert open(root + "/last").read() == "new" and not os.path.islink(root + "/last")


def test_no_exec_without_a_root_takes_no_files(lab):
    g = lab.start_guest("--no-exec", mtls=False)
    assert copy(g, lab.path("x")) == 403 and directories(g, lab.path("y")) == 403
    assert not os.path.exists(lab.path("x")) and not os.path.exists(lab.path("y"))


def half_a_copy(guest, path):
    """A request whose body is on its way; the socket, when the worker writes it."""
    s = socket.create_connection((REMOTE, guest.port), TIMEOUT)
    s.sendall(f"POST /tinyscale/v1/host-exec/copy?path={path} HTTP/1.1\r\nHost: x\r\n"
              "Content-Length: 1000000\r\n\r\n".encode() + b"z" * 5000)

    def written():
        folder = os.path.dirname(path)
        return any(f.startswith(".tstunnel") and os.path.getsize(f"{folder}/{f}") for f in os.listdir(folder))
    wait_for(written, 5, "the worker's temporary file")
    return s


@pytest.mark.parametrize("how", ["client goes", "guest killed", "guest stopped"])
def test_half_a_body_never_becomes_a_file(lab, how):
    g = lab.start_guest("--grace", "0s", mtls=False)
    folder = lab.path(lab.name())
    os.mkdir(folder)
    with open(folder + "/kept", "w") as f:
        f.write("old")
    s = half_a_copy(g, folder + "/kept")
    if how == "client goes":
        s.close()
    elif how == "guest killed":
        g.kill()
    else:
        g.stop()
    wait_for(lambda: os.listdir(folder) == ["kept"], 10, "temporary file removed")
    assert open(folder + "/kept").read() == "old"
    s.close()


def command(guest, *argv):
    body = json.dumps({"command": argv[0], "args": argv[1:]}).encode()
    s = socket.create_connection((REMOTE, guest.port), TIMEOUT)
    s.sendall(b"POST /tinyscale/v1/host-exec/command HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return s, s.makefile("rb")


def skip_head(f):
    assert f.readline().startswith(b"HTTP/1.1 101 ")
    while f.readline().strip():
        pass


def test_sigterm_lets_a_plain_command_finish(lab):
    g = lab.start_guest(mtls=False)
    s, f = command(g, "sh", "-c", "echo started; cat; echo finished")
    skip_head(f)
    assert f.readline() == b"started\n"
    g.expect_death = True
    g.signal(15)
    wait_for(lambda: "drain" in g.text(), 5, "the guest drains")
    s.sendall(b"input\n")
    s.shutdown(socket.SHUT_WR)
    assert f.read() == b"input\nfinished\n"
    assert g.wait(TIMEOUT) == 0
    s.close()


@pytest.mark.parametrize("form", ["plain", "tunnel"])
def test_no_command_outlives_the_guest(lab, form):
    g = lab.start_guest("--grace", "0s", mtls=False)
    script = "echo $$; exec sleep 1000"
    if form == "plain":
        s, f = command(g, "sh", "-c", script)
        skip_head(f)
        pid = int(f.readline())
    else:
        c = Carrier(g)
        pid = int(c.wait(DATA, c.open(kind="exec", command="sh", args=["-c", script])))
    assert lab.remote("kill", "-0", pid, check=False).returncode == 0
    assert g.stop() == 0
    wait_for(lambda: "State:\tZ" in status(lab, pid) or not status(lab, pid), 5, "the command ends")


def status(lab, pid):
    return lab.remote("cat", f"/proc/{pid}/status", check=False).stdout


def test_clients_that_leave_while_a_command_starts(lab, guest):
    """At whatever moment: the guest stays, and so does no process."""
    for i in range(40):
        s, f = command(guest, "sleep", "999")
        f.close()
        if i % 4:
            select.select([s], [], [], 0.001 * (i % 4))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    wait_for(lambda: b"tstunnel_exec_children 0\n" in request(guest, "GET", "/metrics")[1], 10, "no command runs")


def test_allowed_cns(lab):
    g = lab.start_guest("--allowed-cns", "client,spiffe://tinyscale.net/ns/dev/sa/alice")
    for who, expected in (("client", 200), ("client-spiffe", 200), ("client2", 403)):
        tls = tls_context(lab, who)
        for method, path in (("GET", "/health"), ("GET", "/metrics")):
            got, body = request(g, method, path, tls=tls)
            assert got == expected, (who, path)
        if expected == 403:
            assert b"--allowed-cns" in body and b"other-client" in body
            for method, path in (("GET", "/tinyscale/v1/tunnel"), ("GET", "/_ping"),
                                 ("POST", "/tinyscale/v1/host-exec/directories"), ("GET", "/no/such")):
                assert request(g, method, path, tls=tls)[0] == 403
    for who, expected in (("client", False), ("client2", True)):
        with contextlib.closing(tls_context(lab, who).wrap_socket(
                socket.create_connection((REMOTE, g.port), TIMEOUT), server_hostname=HOST)) as s:
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(0, 0, 0)[:9])
            assert ("preface-refused" in wait_text(g, s)) == expected


def wait_text(guest, s):
    """The log once the guest has answered the preface in one way or another."""
    with contextlib.suppress(ConnectionError):
        s.recv(1)
    return guest.text()


def test_a_web_page_gets_nothing_over_tls_either(lab):
    """A browser shows its user's certificate for any page that asks."""
    tls = tls_context(lab, "client")
    assert request(lab.guest, "GET", "/health", tls=tls)[0] == 200
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert request(lab.guest, "GET", "/_ping", headers=headers, tls=tls)[0] == 403
    assert request(lab.guest, "GET", "/health", headers={"Sec-Fetch-Site": "none"}, tls=tls)[0] == 200


# -- tsctl stop, status ----------------------------------------------------------------------------


@pytest.mark.parametrize("sub", ["stop", "status"])
def test_arguments_that_mean_nothing_are_refused(lab, sub):
    """"tsctl stop 127.0.0.1:2375" must not stop another one because it is the only one."""
    r = run(BIN + "/tsctl", sub, "127.0.0.1:1", check=False, env=lab.env)
    assert r.returncode == 2 and "unexpected argument: 127.0.0.1:1" in r.stderr
    assert lab.tsctl.alive()


def test_stop_does_not_wait_for_the_reaper(lab):
    """Ended is who holds the lock no more, even if nobody has fetched the exit status."""
    t = lab.start_tsctl(lab.guest)
    t.expect_death = True
    start = time.monotonic()
    r = run(BIN + "/tsctl", "stop", "--listen", f"127.0.0.1:{t.port}", check=False, env=lab.env)
    assert r.returncode == 0 and time.monotonic() - start < 10, r.stderr
    assert t.wait() == 0


def test_looking_does_not_keep_from_starting(lab):
    """status asks about the lock without taking it."""
    stop = threading.Event()

    def look():
        while not stop.is_set():
            run(BIN + "/tsctl", "status", check=False, env=lab.env)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        port = lab.free_port()
        for _ in range(5):
            assert lab.start_tsctl(lab.guest, port=port).stop() == 0
    finally:
        stop.set()
        thread.join()


def test_sigterm_before_it_serves(lab):
    """While the guest is still being reached, there is nothing to wait for."""
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{lab.free_port()}", "--ts-server", NOWHERE])
    wait_for(lambda: "tsctl" in open(f"/proc/{t.pid}/comm").read() and t.popen.poll() is None
             and any("eventpoll" in f for f in open_files(t.pid)), 5)
    assert t.stop(5) == 0
    assert "listening" not in t.text()
