"""tsctl forward create with a URL in front: the remote host listens, the laptop is dialled."""
import contextlib
import hashlib
import os
import signal
import socket

import pytest
from forwards import BLOB, create, fails, local_services, url  # noqa: F401
from lab import BIN, REMOTE, run, wait_for

pytestmark = pytest.mark.tunnel

# A client on the remote host: what it does, then where; says what came of it.
CLIENT = """
import hashlib, socket, sys
what, where = sys.argv[1:3]
BLOB = hashlib.shake_256(b"forward").digest(1 << 20) * 20
if where.startswith("/"):
    c = socket.socket(socket.AF_UNIX); c.settimeout(20); c.connect(where)
else:
    host, port = where.rsplit(":", 1)
    try: c = socket.create_connection((host, int(port)), 20)
    except ConnectionRefusedError: sys.exit("refused")
    except ConnectionResetError: sys.exit("reset")
def rest():
    h = hashlib.sha256()
    n = 0
    while data := c.recv(1 << 18):
        h.update(data); n += len(data)
    return n, h.hexdigest()
try:
    if what == "hello":
        f = c.makefile("rwb"); name = f.readline().strip()
        f.write(b"hello\\n"); f.flush()
        print(name.decode(), f.readline().decode().strip())
    elif what == "swap":
        c.sendall(BLOB); c.shutdown(socket.SHUT_WR)
        print(*rest())
    elif what == "first":
        print(*rest(), flush=True)
        c.sendall(BLOB[::-1])
    elif what == "wait":
        c.recv(100); print("connected", flush=True); c.recv(100); print("ended")
except ConnectionResetError:
    sys.exit("reset")
"""


def remote_client(lab, what, where, check=True):
    """What the client said; with check=False also why it gave up."""
    r = lab.remote("/usr/bin/python3", "-c", CLIENT, what, where, check=check)
    return r.stdout.strip() if check else r.stdout.strip() + r.stderr.strip()


def hello(lab, where):
    return remote_client(lab, "hello", where, check=False)


def test_a_local_web_server_for_the_remote_host(lab):
    www = lab.path("www-here")
    os.makedirs(www, exist_ok=True)
    with open(www + "/blob", "wb") as f:
        f.write(BLOB)
    there, here = lab.free_port(), lab.free_port()
    lab.program("httpd", ["/usr/bin/python3", "-m", "http.server", "-b", "127.0.0.1", "-d", www, here])
    wait_for(lambda: run("curl", "-sf", f"http://127.0.0.1:{here}/", check=False).returncode == 0)
    p = create(lab, url(lab, f"tcp:localhost:{there}"), f"tcp:localhost:{here}")
    assert p.lines == [f"tstunnel://{lab.guest.address}/tcp:localhost:{there} -> localhost:{here}"]
    for host in ("127.0.0.1", "localhost"):
        assert lab.remote("curl", "-sSf", f"http://{host}:{there}/blob", text=False).stdout == BLOB
    assert lab.remote("curl", "-s", f"http://{REMOTE}:{there}/", check=False).returncode == 7  # loopback only
    assert p.stop() == 0
    wait_for(lambda: hello(lab, f"127.0.0.1:{there}") == "refused", what="the remote host listens no more")


def test_port_0_says_which_port(lab, local_services):
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.echo}")
    assert p.port > 0
    assert hello(lab, f"127.0.0.1:{p.port}") == f"{local_services.echo} hello"


def test_ranges(lab, local_services):
    there, here = [lab.free_port() for _ in range(3)], local_services.range
    p = create(lab, url(lab, f"tcp:127.0.0.1:{there[0]}-{there[2]}"), f"tcp:127.0.0.1:{here[0]}-{here[2]}")
    assert p.lines == [f"tstunnel://{lab.guest.address}/tcp:127.0.0.1:{t} -> 127.0.0.1:{h}"
                       for h, t in zip(here, there)]
    for h, t in zip(here, there):
        assert hello(lab, f"127.0.0.1:{t}") == f"{h} hello"


def test_sockets_at_both_ends(lab, local_services):
    p = create(lab, url(lab, "unix:/run/reverse.sock"), "unix:" + local_services.socket)
    assert p.lines == [f"tstunnel://{lab.guest.address}/unix:/run/reverse.sock -> unix://{local_services.socket}"]
    assert lab.remote("stat", "-c", "%a", "/run/reverse.sock").stdout == "600\n"
    assert hello(lab, "/run/reverse.sock") == "0 hello"
    assert p.stop() == 0
    wait_for(lambda: lab.remote("test", "-e", "/run/reverse.sock", check=False).returncode == 1, what="it is gone")


def test_without_certificates(lab, local_services, plain_guest):
    p = create(lab, f"tstunnel://{plain_guest.address}/tcp:127.0.0.1:0", f"tcp:127.0.0.1:{local_services.echo}")
    assert hello(lab, f"127.0.0.1:{p.port}") == f"{local_services.echo} hello"


# -- bytes -------------------------------------------------------------------------------------------

def test_half_close_there_first(lab, local_services):
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.swap}", "--log-level", "debug")
    n, digest = remote_client(lab, "swap", f"127.0.0.1:{p.port}").split()
    want = hashlib.sha256(BLOB).hexdigest().encode() + BLOB
    assert int(n) == len(want) and digest == hashlib.sha256(want).hexdigest()
    line = wait_for(lambda: [x for x in p.text().splitlines() if "forward-closed" in x], what="log line")[0]
    assert f"sent={len(want)} received={len(BLOB)} ms=" in line


def test_half_close_here_first(lab, local_services):
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.first}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(local_services.digest)
    n, digest = remote_client(lab, "first", f"127.0.0.1:{p.port}").split()
    assert int(n) == len(BLOB) and digest == hashlib.sha256(BLOB).hexdigest()
    wait_for(lambda: os.path.exists(local_services.digest), what="the laptop got its end")
    assert open(local_services.digest).read() == hashlib.sha256(BLOB[::-1]).hexdigest()


def test_datagrams(lab):
    echo = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
while True:
    d, peer = s.recvfrom(65536); s.sendto(d, peer)
"""
    client = """
import socket, sys
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(10); c.connect(("127.0.0.1", int(sys.argv[1])))
for n in list(range(1, 1000)) + [9000, 60000, 65507]:
    d = bytes((n + i) & 255 for i in range(256)) * 256
    c.send(d[:n]); assert c.recv(65536) == d[:n], n
print("same")
"""
    here = lab.free_port()
    e = lab.program("udp-echo", ["/usr/bin/python3", "-c", echo, here])
    wait_for(lambda: "up" in e.text())
    p = create(lab, url(lab, "udp:localhost:0"), f"udp:localhost:{here}", "--udp-timeout", "200ms", "--log-level",
               "debug")
    assert p.lines[0].endswith(f" -> udp:localhost:{here}")
    assert lab.remote("/usr/bin/python3", "-c", client, p.port).stdout == "same\n"
    wait_for(lambda: "forward-closed" in p.text(), what="the guest ends the flow")


# -- refusals ----------------------------------------------------------------------------------------

def test_a_refused_target_is_a_reset(lab, local_services):
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.nobody}")
    assert hello(lab, f"127.0.0.1:{p.port}") == "reset"
    wait_for(lambda: f"dial tcp 127.0.0.1:{local_services.nobody}: connection refused" in p.text(),
             what="the log says why")
    rude = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.rude}")
    assert remote_client(lab, "swap", f"127.0.0.1:{rude.port}", check=False) in ("reset", "[Errno 32] Broken pipe")


def test_a_port_taken_there(lab, local_services):
    dst = f"tcp:127.0.0.1:{local_services.echo}"
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), dst)
    status, text = fails(lab, "--foreground", url(lab, f"tcp:127.0.0.1:{p.port}"), dst)
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{p.port}: address already in use (guest {lab.guest.address})" in text
    status, text = fails(lab, "--foreground", url(lab, "tcp:some.name:9"), dst)
    assert status == 1 and "listening on some.name:9 is not allowed by this guest (--allow-listen)" in text
    assert hello(lab, f"127.0.0.1:{p.port}") == f"{local_services.echo} hello"


@pytest.mark.parametrize("flags, where, allowed", [
    ([], "tcp:127.0.0.1:{}", True),
    ([], "tcp:[::1]:{}", True),
    ([], "tcp:0.0.0.0:{}", False),
    ([], "udp:0.0.0.0:{}", False),
    ([], f"tcp:{REMOTE}:{{}}", False),
    (["--no-exec"], "tcp:localhost:{}", True),
    (["--no-exec"], "unix:/run/denied.sock", False),
    (["--allow-tcp", "*:*"], "tcp:localhost:{}", False),
    (["--allow-listen", "0.0.0.0:{}"], "tcp:0.0.0.0:{}", True),
    (["--allow-listen", "0.0.0.0:{}"], "tcp:localhost:{}", False),
    (["--allow-listen", "0.0.0.0:{}"], "unix:/run/denied.sock", False),
    (["--allow-listen", "127.0.0.1:1-1000"], "tcp:127.0.0.1:{}", False),
    (["--allow-listen", "127.0.0.1:1-1000"], "tcp:127.0.0.1:0", False),
    (["--allow-listen", "*:*"], "udp:0.0.0.0:0", True),
    (["--allow-tcp", "*:*", "--allow-listen", "localhost:*"], "tcp:localhost:0", True),
    (["--no-exec", "--allow-listen", "/run/allowed.sock"], "unix:/run/allowed.sock", True),
])
def test_the_guests_policy(lab, flags, where, allowed):
    port = lab.free_port()
    g = lab.start_guest(*[f.format(port) for f in flags])
    src, dst = url(lab, where.format(port), g), ("udp" if "udp" in where else "tcp") + ":localhost:1"
    if allowed:
        create(lab, src, dst)
    else:
        status, text = fails(lab, "--foreground", src, dst)
        assert status == 1 and "not allowed by this guest (--allow-listen)" in text


def test_policy_flags_are_checked(lab):
    for flag in ("--allow-listen", "--allow-udp"):
        for value in ("x", "h:0", "h:1,i:2", ":9"):
            r = lab.remote(BIN + "/guest", flag, value, check=False)
            assert r.returncode == 1 and f"{flag} {value}: must be HOST:PORT" in r.stderr


# -- the tunnel goes and comes -----------------------------------------------------------------------

def test_guest_killed_and_restarted(lab, local_services):
    g = lab.start_guest()
    p = create(lab, url(lab, "tcp:127.0.0.1:0", g), f"tcp:127.0.0.1:{local_services.echo}")
    where = f"127.0.0.1:{p.port}"
    assert hello(lab, where) == f"{local_services.echo} hello"
    g.kill()
    assert hello(lab, where) == "refused"
    lab.start_guest(port=g.port)
    wait_for(lambda: hello(lab, where) == f"{local_services.echo} hello", 10, "works again, on the same port")


def test_guest_stopped_and_restarted(lab, local_services):
    """SIGTERM: it listens no more at once, what runs may finish."""
    g = lab.start_guest("--grace", "60s")
    p = create(lab, url(lab, "tcp:127.0.0.1:0", g), f"tcp:127.0.0.1:{local_services.echo}")
    where = f"127.0.0.1:{p.port}"
    c = lab.program("client", ["/usr/bin/python3", "-c", CLIENT, "wait", where], remote=True)
    wait_for(lambda: "connected" in c.text(), what="a connection")
    g.expect_death = True
    g.signal(signal.SIGTERM)
    wait_for(lambda: hello(lab, where) == "refused", what="it listens no more")
    assert c.alive() and g.alive()
    c.kill()
    assert g.wait(10) == 0
    lab.start_guest(port=g.port)
    wait_for(lambda: hello(lab, where) == f"{local_services.echo} hello", 10, "works again, on the same port")


def test_cable_out_and_in(lab, local_services):
    """The guest still believes in the old tunnel when the new one asks for the same port."""
    g = lab.start_guest()
    p = create(lab, url(lab, "tcp:127.0.0.1:0", g), f"tcp:127.0.0.1:{local_services.echo}", "--keepalive", "500ms")
    where = f"127.0.0.1:{p.port}"
    assert hello(lab, where) == f"{local_services.echo} hello"
    rules = [["INPUT", "-p", "tcp", "--sport", g.port], ["OUTPUT", "-p", "tcp", "--dport", g.port]]
    for rule in rules:
        run("iptables", "-A", *rule, "-j", "DROP")
    try:
        wait_for(lambda: "tunnel lost" in p.text(), what="the loss is noticed")
    finally:
        for rule in rules:
            run("iptables", "-D", *rule, "-j", "DROP")
    wait_for(lambda: hello(lab, where) == f"{local_services.echo} hello", 5, "works again")
    assert "listener refused" not in p.text()


def test_sigterm_lets_connections_finish(lab, local_services):
    p = create(lab, url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.echo}")
    c = lab.program("client", ["/usr/bin/python3", "-c", CLIENT, "wait", f"127.0.0.1:{p.port}"], remote=True)
    wait_for(lambda: "connected" in c.text(), what="a connection")
    p.expect_death = True
    p.signal(signal.SIGTERM)
    wait_for(lambda: hello(lab, f"127.0.0.1:{p.port}") == "refused", what="the remote host listens no more")
    assert p.alive() and c.alive()
    c.kill()
    assert p.wait(5) == 0


def test_the_guest_logs_it(lab, local_services):
    g = lab.start_guest()
    p = create(lab, url(lab, "tcp:127.0.0.1:0", g), f"tcp:127.0.0.1:{local_services.echo}")
    hello(lab, f"127.0.0.1:{p.port}")
    p.stop()
    wait_for(lambda: f"listen-closed peer=CN=client addr=127.0.0.1:{p.port} connections=1" in
             g.text().replace('"', ""), what="log line")
    assert f"addr=127.0.0.1:{p.port}" in g.text().split("listen-open")[1]
