"""tsctl forward create: ports and sockets of the remote network, answered on the laptop."""
import contextlib
import hashlib
import os
import signal
import socket
import stat
import time

import pytest
from forwards import (BLOB, MB, connect, create, echoes, fails, is_reset, recv_all, services, url,  # noqa: F401
                      works)
from lab import BIN, CLIS, LAPTOP, REMOTE, can_connect, run, wait_for

pytestmark = pytest.mark.tunnel


# -- what goes where ---------------------------------------------------------------------------------

def test_the_seeds_url_with_curl(lab):
    www = lab.path("www")
    os.makedirs(www, exist_ok=True)
    with open(www + "/blob", "wb") as f:
        f.write(BLOB)
    there, here = lab.free_port(), lab.free_port()
    lab.program("httpd", ["/usr/bin/python3", "-m", "http.server", "-b", "127.0.0.1", "-d", www, there], remote=True)
    wait_for(lambda: lab.remote("curl", "-sf", f"http://127.0.0.1:{there}/", check=False).returncode == 0)
    p = create(lab, f"tcp:localhost:{here}", url(lab, f"tcp:localhost:{there}"))
    assert p.lines == [f"localhost:{here} -> tstunnel://{lab.guest.address}/tcp:localhost:{there}"]
    got = run("curl", "-sSf", f"http://localhost:{here}/blob", text=False).stdout
    assert got == BLOB
    if os.path.exists("/proc/net/if_inet6") and open("/proc/net/if_inet6").read():
        assert run("curl", "-sSf", f"http://[::1]:{here}/blob", text=False).stdout == BLOB
    assert not can_connect(LAPTOP, here)  # loopback only


def test_port_0_says_which_port(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}"))
    assert p.port > 0
    assert echoes(p.port, services.echo)


def test_ranges(lab, services):
    here = [lab.free_port() for _ in range(3)]
    there = services.range
    p = create(lab, f"tcp:127.0.0.1:{here[0]}-{here[2]}", url(lab, f"tcp:localhost:{there[0]}-{there[2]}"))
    assert p.lines == [f"127.0.0.1:{h} -> tstunnel://{lab.guest.address}/tcp:localhost:{t}"
                       for h, t in zip(here, there)]
    for h, t in zip(here, there):
        assert echoes(h, t)


def test_sockets_at_both_ends(lab, services):
    path = lab.path("fw.sock")
    p = create(lab, "unix:" + path, url(lab, "unix:" + services.socket))
    assert p.lines == [f"unix://{path} -> tstunnel://{lab.guest.address}/unix:{services.socket}"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as c:
        c.connect(path)
        c.settimeout(10)
        f = c.makefile("rb")
        assert f.readline() == b"0\n"
        c.sendall(b"through sockets")
        c.shutdown(socket.SHUT_WR)
        assert f.read() == b"through sockets"
    assert p.stop() == 0
    assert not os.path.exists(path)


@pytest.mark.skipif(not CLIS, reason="no docker CLI")
def test_the_engines_socket(lab):
    path = lab.path("engine.sock")
    create(lab, "unix:" + path, url(lab, "unix:/run/docker.sock"))
    assert run(lab.cli, "-H", "unix://" + path, "version", "-f", "ok", env=lab.env).stdout == "ok\n"


def test_without_certificates(lab, services, plain_guest):
    dst = f"tstunnel://{plain_guest.address}/tcp:127.0.0.1:{services.echo}"
    assert echoes(create(lab, "tcp:127.0.0.1:0", dst).port, services.echo)
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}", ca=None, insecure="true"))
    assert "Warning: insecure=true" in p.text()
    assert echoes(p.port, services.echo)


# -- bytes -------------------------------------------------------------------------------------------

def test_half_close_here_first(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.swap}"), "--log-level", "debug")
    with connect(p.port) as c:
        c.sendall(BLOB)
        c.shutdown(socket.SHUT_WR)
        got = recv_all(c)
    assert got[:64] == hashlib.sha256(BLOB).hexdigest().encode()
    assert got[64:] == BLOB
    line = wait_for(lambda: [x for x in p.text().splitlines() if "forward-closed" in x], what="log line")[0]
    assert f"sent={len(BLOB)} received={len(BLOB) + 64} ms=" in line


def test_half_close_there_first(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.first}"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(services.digest)
    with connect(p.port) as c:
        assert recv_all(c) == BLOB
        c.sendall(BLOB[::-1])
    wait_for(lambda: os.path.exists(services.digest), what="the other side got its end")
    assert open(services.digest).read() == hashlib.sha256(BLOB[::-1]).hexdigest()


def test_200_connections_at_once(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}"))
    conns = [connect(p.port) for _ in range(200)]
    for i, c in enumerate(conns):
        c.sendall(b"%d;" % i * 1000)
        c.shutdown(socket.SHUT_WR)
    for i, c in enumerate(conns):
        assert recv_all(c) == b"%d\n" % services.echo + b"%d;" % i * 1000
        c.close()
    fds = f"/proc/{p.pid}/fd"
    wait_for(lambda: len(os.listdir(fds)) < 20, what="descriptors given back")
    assert echoes(p.port, services.echo)


# -- refusals ----------------------------------------------------------------------------------------

def test_a_refused_target_is_a_reset(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.nobody}"))
    assert is_reset(p.port)
    assert is_reset(p.port, b"early")
    wait_for(lambda: "connection refused" in p.text(), what="the log says why")
    r = run("curl", "-sS", f"http://127.0.0.1:{p.port}/", check=False)
    assert r.returncode in (7, 55, 56)  # reset while connecting, sending, receiving; not 52, an empty reply


def test_a_target_that_resets(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.rude}"))
    assert is_reset(p.port, b"x")


def test_the_guests_policy(lab, services):
    g = lab.start_guest("--allow-tcp", f"127.0.0.1:{services.range[0]}")
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}", g))
    assert is_reset(p.port)
    wait_for(lambda: "is not allowed by this guest's --allow-tcp" in p.text(), what="the log says why")
    allowed = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.range[0]}", g))
    assert echoes(allowed.port, services.range[0])


# -- the tunnel goes and comes -----------------------------------------------------------------------

def test_guest_killed_and_restarted(lab, services):
    g = lab.start_guest()
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}", g))
    with connect(p.port) as c:
        assert c.makefile("rb").readline() == b"%d\n" % services.echo
        g.kill()
        with pytest.raises(ConnectionResetError):
            c.recv(1)
    assert is_reset(p.port)  # the listener stays; nobody waits in vain
    lab.start_guest(port=g.port)
    wait_for(lambda: works(p.port), 10, "works again")
    assert p.alive()


def test_sigterm_lets_connections_finish(lab, services):
    p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.swap}"))
    with connect(p.port) as c:
        c.sendall(BLOB[:5 * MB])
        p.expect_death = True
        p.signal(signal.SIGTERM)
        wait_for(lambda: not can_connect("127.0.0.1", p.port), what="stops accepting")
        c.sendall(BLOB[5 * MB:])
        c.shutdown(socket.SHUT_WR)
        got = recv_all(c)
    assert got[:64] == hashlib.sha256(BLOB).hexdigest().encode() and got[64:] == BLOB
    assert p.wait(5) == 0


def test_sigterm_loses_no_last_words(lab, services):
    """The other side has long said all it had to say; ours is still on its way when all is over."""
    for _ in range(3):
        p = create(lab, "tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.first}"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(services.digest)
        with connect(p.port) as c:
            assert recv_all(c) == BLOB
            p.expect_death = True
            p.signal(signal.SIGTERM)
            wait_for(lambda: not can_connect("127.0.0.1", p.port), what="stops accepting")
            c.sendall(BLOB[::-1])
        assert p.wait(5) == 0
        wait_for(lambda: os.path.exists(services.digest), what="the other side got its end")
        assert open(services.digest).read() == hashlib.sha256(BLOB[::-1]).hexdigest()


def test_grace_and_second_signal(lab, services):
    dst = url(lab, f"tcp:127.0.0.1:{services.echo}")
    for signals in ([signal.SIGTERM], [signal.SIGINT, signal.SIGINT]):
        p = create(lab, "tcp:127.0.0.1:0", dst, "--grace", "300ms" if len(signals) == 1 else "60s")
        p.expect_death = True
        with connect(p.port) as c:
            assert c.makefile("rb").readline()
            for signo in signals:
                p.signal(signo)
                time.sleep(0.05)  # two of a kind may come as one
            assert p.wait(5) == 0
            with pytest.raises(ConnectionResetError):
                c.recv(1)


# -- errors ------------------------------------------------------------------------------------------

def test_other_addresses_need_insecure(lab, services):
    dst = url(lab, f"tcp:127.0.0.1:{services.echo}")
    for src in (f"tcp:{LAPTOP}:0", "tcp:0.0.0.0:0", "tcp:[::]:0"):
        status, text = fails(lab, "--foreground", src, dst)
        assert status == 2 and "--insecure" in text and "everybody who reaches" in text
    p = create(lab, f"tcp:{LAPTOP}:0", dst, "--insecure")
    with connect(p.port, LAPTOP) as c:
        assert c.makefile("rb").readline() == b"%d\n" % services.echo


def test_unreachable_guests(lab):
    dst = url(lab, "tcp:127.0.0.1:1", ca=lab.pki.crt("other-ca"))
    status, text = fails(lab, "--foreground", "tcp:127.0.0.1:0", dst)
    assert status == 1 and "signed by unknown authority" in text and "with ca=FILE, or" in text and "--" not in text
    dst = url(lab, "tcp:127.0.0.1:1", cert=None, key=None)
    status, text = fails(lab, "--foreground", "tcp:127.0.0.1:0", dst)
    assert status == 1 and "give a client certificate with cert=FILE and key=FILE" in text
    dst = f"tstunnel://{REMOTE}:{lab.free_port()}/tcp:127.0.0.1:1"
    status, text = fails(lab, "--foreground", "tcp:127.0.0.1:0", dst)
    assert status == 1 and "connection refused; is guest running there" in text
    dst = url(lab, "tcp:127.0.0.1:1", ca=lab.path("no-such-ca.crt"))
    status, text = fails(lab, "--foreground", "tcp:127.0.0.1:0", dst)
    assert status == 1 and "no-such-ca.crt: no such file" in text


def test_a_taken_port(lab, services):
    here = [lab.free_port() for _ in range(3)]
    there = services.range
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", here[1]))
        taken.listen()
        status, text = fails(lab, "--foreground", f"tcp:127.0.0.1:{here[0]}-{here[2]}",
                             url(lab, f"tcp:localhost:{there[0]}-{there[2]}"))
    assert status == 1 and f"cannot listen on 127.0.0.1:{here[1]}: address already in use" in text


@pytest.mark.parametrize("src, dst, words", [
    ("tcp:localhost:0", "tstunnel://h/tcp:t:1?crt=x", 'unknown parameter "crt"'),
    ("tcp:localhost:0", "tstunnel://h/tcp:t:1?cert=x", 'parameter "cert" needs "key"'),
    ("tcp:localhost:0", "tstunnel://h:0/tcp:t:1", 'server port "0"'),
    ("tcp:localhost:0", "tstunnel:///tcp:t:1", "server host is empty"),
    ("tcp:localhost:0", "tstunnel://h/tcp:t", "target port is missing"),
    ("tcp:localhost:0", "tstunnel://h/app", 'path "/app" is no target'),
    ("tcp:localhost:0", "tstunnel://h/udp:t:53", "DST is UDP and the other is not"),
    ("tcp:localhost:0", "tcp:localhost:80", "neither SRC nor DST is a tstunnel:// URL"),
    ("tstunnel://h/tcp:t:1", "tstunnel://h/tcp:t:1", "SRC and DST are both tstunnel:// URLs"),
    ("tstunnel://h/tcp:t:1", "tcp:localhost:0", "DST: port 0 is for listening"),
    ("udp:localhost:53", "tstunnel://h/tcp:t:53", "SRC is UDP and the other is not"),
    ("tcp:localhost:1-3", "tstunnel://h/tcp:t:1-2", "SRC has 3 ports, DST has 2"),
    ("tcp:localhost", "tstunnel://h/tcp:t:1", "SRC: address tcp:localhost: missing port"),
])
def test_bad_arguments_name_the_part(lab, src, dst, words):
    status, text = fails(lab, "--foreground", src, dst)
    assert status == 2 and words in text


def test_command_line(lab):
    status, text = fails(lab, "--foreground", "tcp:localhost:0")
    assert status == 2 and "DST is missing" in text
    status, text = fails(lab, "--foreground", "a", "b", "c")
    assert status == 2 and "unexpected argument: c" in text
    for args in (["forward", "--help"], ["help", "forward"], ["forward", "create", "--help"]):
        assert "create SRC DST" in run(BIN + "/tsctl", *args).stdout
    assert "forward " in run(BIN + "/tsctl", "--help").stdout
