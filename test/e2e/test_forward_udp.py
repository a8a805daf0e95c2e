"""tsctl forward create with datagrams, in both directions."""
import contextlib
import socket
import time

import pytest
from forwards import create, url
from lab import run, wait_for

pytestmark = pytest.mark.tunnel

# Echoes datagrams; what starts with "from?" is answered with the address it came from.
ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(repr(peer).encode() if data == b"from?" else data, peer)
"""


def echo(lab, port, host="127.0.0.1", remote=True):
    p = lab.program("udp-echo", ["/usr/bin/python3", "-c", ECHO, host, port], remote=remote)
    wait_for(lambda: "up" in p.text(), what="echo")
    return p


def client(port, host="127.0.0.1"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((host, port))
    return s


def asks(c, data, tries=5):
    """The answer to a datagram; sent again when it does not come, as whoever uses UDP has to."""
    for _ in range(tries):
        c.send(data)
        with contextlib.suppress(TimeoutError):
            c.settimeout(2)
            return c.recv(65536)
    raise AssertionError("no answer")


@pytest.fixture
def there(lab):
    port = lab.free_port()
    echo(lab, port)
    return port


def body(n, seed):
    return bytes((seed + i * 7) & 0xFF for i in range(256)) * (n // 256 + 1)


def check_sizes(c):
    for n in (1, 2, 100, 1400, 9000, 60000, 65507, 1):
        data = body(n, n)[:n]
        assert asks(c, data) == data
    c.send(b"")
    assert c.recv(65536) == b""


def check_many(c, total=1000, window=16):
    """Numbered datagrams of all sizes, some of them on their way at once: each comes back, as one."""
    def datagram(i):
        return b"%d " % i + body(1200, i)[:i * 13 % 1200]
    waiting, sent, c_got = {}, 0, set()
    while len(c_got) < total:
        while sent < total and len(waiting) < window:
            waiting[sent] = datagram(sent)
            c.send(waiting[sent])
            sent += 1
        got = c.recv(65536)
        i = int(got.split(b" ", 1)[0])
        assert got == waiting.pop(i)
        c_got.add(i)


def test_sizes_and_boundaries(lab, there):
    p = create(lab, "udp:localhost:0", url(lab, f"udp:localhost:{there}"))
    assert p.lines == [f"udp:localhost:{p.port} -> tstunnel://{lab.guest.address}/udp:localhost:{there}"]
    with client(p.port) as c:
        check_sizes(c)
        check_many(c)


def test_each_source_is_a_flow(lab, there):
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:127.0.0.1:{there}"))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(p.port)) for _ in range(50)]
        seen = {asks(c, b"from?") for c in clients}
        assert len(seen) == 50  # a socket of its own there
        assert {asks(c, b"from?") for c in clients} == seen  # and the same one again
        for i, c in enumerate(clients):
            assert asks(c, b"%d" % i) == b"%d" % i


def test_ranges_and_a_name_with_two_addresses(lab):
    ports = [lab.free_port() for _ in range(2)]
    echo(lab, ports[0], "127.0.0.1")
    six = lab.remote("test", "-e", "/proc/net/if_inet6", check=False).returncode == 0
    echo(lab, ports[1], "::1" if six else "127.0.0.1")
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:localhost:{ports[0]}"))
    with client(p.port) as c:
        assert asks(c, b"x") == b"x"
    here = [lab.free_port() for _ in range(2)]
    create(lab, f"udp:127.0.0.1:{here[0]}-{here[1]}", url(lab, f"udp:localhost:{ports[0]}-{ports[1]}"))
    for h in here:
        with client(h) as c:
            assert asks(c, b"y") == b"y"


def test_silent_flows_end(lab, there):
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:127.0.0.1:{there}"), "--udp-timeout", "200ms",
               "--log-level", "debug")
    with client(p.port) as c:
        first = asks(c, b"from?")
        wait_for(lambda: "forward-closed" in p.text(), what="the flow ends")
        assert asks(c, b"from?") != first
    ms = int(p.text().split("forward-closed")[1].split(" ms=")[1].split()[0])
    assert ms >= 600  # it was answered: three times the limit


def test_nobody_listens_there(lab):
    port = lab.free_port()
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:localhost:{port}"))
    with client(p.port) as c:
        c.send(b"x")
        wait_for(lambda: f"dial udp localhost:{port}: connection refused" in p.text(), what="the log says why")
        echo(lab, port)
        assert asks(c, b"later") == b"later"


def test_the_tunnel_goes_and_comes(lab, there):
    g = lab.start_guest()
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:127.0.0.1:{there}", g))
    with client(p.port) as c:
        assert asks(c, b"x") == b"x"
        g.kill()
        c.send(b"lost")
        lab.start_guest(port=g.port)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(AssertionError):
                assert asks(c, b"again", 1) == b"again"
                break
            assert time.monotonic() < deadline
    assert p.alive()


@pytest.mark.parametrize("flags, allowed", [
    (["--allow-udp", "127.0.0.1:{}"], True),
    (["--allow-udp", "*:*"], True),
    (["--allow-udp", "127.0.0.1:1"], False),
    (["--allow-tcp", "*:*"], False),
    (["--allow-tcp", "*:*", "--allow-udp", "127.0.0.1:{}"], True),
])
def test_the_guests_policy(lab, there, flags, allowed):
    g = lab.start_guest(*[f.format(there) for f in flags])
    p = create(lab, "udp:127.0.0.1:0", url(lab, f"udp:127.0.0.1:{there}", g))
    with client(p.port) as c:
        if allowed:
            assert asks(c, b"x") == b"x"
        else:
            c.send(b"x")
            wait_for(lambda: "is not allowed by this guest (--allow-udp)" in p.text(), what="the log says why")


def test_dns(lab):
    """A real protocol and a real client: the lookups of glibc, through a forward."""
    dns = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
while True:
    q, peer = s.recvfrom(512)
    end = q.index(b"\\0", 12) + 5
    a = q[end - 4:end - 2] == b"\\0\\x01"
    s.sendto(q[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([a]) + b"\\0\\0\\0\\0" + q[12:end] +
             (b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x05\\0\\4\\x0a\\x01\\x02\\x03" if a else b""), peer)
"""
    port = lab.free_port()
    d = lab.program("dns", ["/usr/bin/python3", "-c", dns, port], remote=True)
    wait_for(lambda: "up" in d.text())
    create(lab, "udp:127.0.0.1:53", url(lab, f"udp:localhost:{port}"))
    # The lab's resolv.conf says 127.0.0.1.
    assert run("getent", "ahostsv4", "something.far.away").stdout.startswith("10.1.2.3 ")
