"""What the tests of tsctl forward share: services, forwards, clients."""
import contextlib
import hashlib
import os
import socket

import pytest
from lab import BIN, run, wait_for

MB = 1 << 20
BLOB = hashlib.shake_256(b"forward").digest(MB) * 20

# Services: "echo" says which port it is and echoes; "swap" reads to the end and
# answers with what it got's digest and 20 MB; "first" sends 20 MB, ends, and then reads to the end;
# "rude" resets after the first byte.
SERVICES = """
import hashlib, os, socket, struct, sys, threading
BLOB = hashlib.shake_256(b"forward").digest(1 << 20) * 20
OUT = sys.argv[1]

def rest(c):
    h = hashlib.sha256()
    while data := c.recv(1 << 18):
        h.update(data)
    return h.hexdigest().encode()

def echo(c, port):
    c.sendall(b"%d\\n" % port)
    while data := c.recv(1 << 18):
        c.sendall(data)

def swap(c, port):
    c.sendall(rest(c) + BLOB)

def first(c, port):
    c.sendall(BLOB)
    c.shutdown(socket.SHUT_WR)
    digest = rest(c)
    with open(OUT + ".tmp", "wb") as f:
        f.write(digest)
    os.rename(OUT + ".tmp", OUT)

def rude(c, port):
    c.recv(1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

def one(c, what, port):
    with c:
        try: what(c, port)
        except OSError: pass

def serve(l, what, port):
    while True:
        threading.Thread(target=one, args=(l.accept()[0], what, port), daemon=True).start()

for word in sys.argv[2:]:
    name, where = word.split("=")
    if where.startswith("/"):
        if os.path.exists(where): os.unlink(where)
        l = socket.socket(socket.AF_UNIX); l.bind(where); port = 0
    else:
        l = socket.socket(); port = int(where)
        l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        l.bind(("127.0.0.1", port))
    l.listen(512)
    threading.Thread(target=serve, args=(l, globals()[name], port)).start()
print("up", flush=True)
"""


class Services:
    pass


def start_services(lab, remote):
    """Services on one of the hosts, as attributes: their ports."""
    s = Services()
    s.echo, s.swap, s.first, s.rude = (lab.free_port() for _ in range(4))
    s.range = [lab.free_port() for _ in range(3)]
    s.digest = lab.path("digest" if remote else "digest-here")
    s.socket, s.nobody = "/run/echo.sock" if remote else lab.path("echo.sock"), lab.free_port()
    words = [f"{name}={getattr(s, name)}" for name in ("echo", "swap", "first", "rude")]
    words += [f"echo={p}" for p in s.range] + [f"echo={s.socket}"]
    p = lab.program("services", ["/usr/bin/python3", "-c", SERVICES, s.digest] + words, remote=remote)
    p.keep = True
    wait_for(lambda: "up" in p.text(), what="services")
    s.kill = p.kill
    return s


@pytest.fixture(scope="module")
def services(session_lab):
    """On the remote host."""
    s = start_services(session_lab, True)
    yield s
    s.kill()


@pytest.fixture(scope="module")
def local_services(session_lab):
    """On the laptop."""
    s = start_services(session_lab, False)
    yield s
    s.kill()
    os.unlink(s.socket)


def url(lab, target, guest=None, **params):
    p = {"cert": lab.pki.crt("client"), "key": lab.pki.key("client"), "ca": lab.pki.crt("ca")}
    p.update(params)
    query = "&".join(f"{k}={v}" for k, v in p.items() if v)
    return f"tstunnel://{(guest or lab.guest).address}/{target}" + ("?" + query if query else "")


def create_argv(*args):
    return [BIN + "/tsctl", "forward", "create"] + [str(a) for a in args]


def create(lab, src, dst, *flags):
    """A forward that serves; .lines is what it printed, .port where its first port is."""
    p = lab.program("forward", create_argv("--foreground", src, dst, *flags))

    def lines():
        assert p.alive(), p.text()
        return [line for line in p.text().splitlines() if "tstunnel://" in line and " -> " in line]
    p.lines = wait_for(lines, what="the line that says where it listens")
    listens = p.lines[0].split(" -> ")[0]
    p.port = 0 if "unix:" in listens else int(listens.rsplit(":")[-1])
    return p


def fails(lab, *args):
    """Status and error message of a forward that does not come to be."""
    r = run(*create_argv(*args), check=False, env=lab.env, timeout=20)
    assert r.stdout == ""
    assert r.stderr.count("\n") <= 2
    return r.returncode, r.stderr


def connect(port, host="127.0.0.1"):
    c = socket.create_connection((host, port), 10)
    c.settimeout(10)
    return c


def recv_all(c):
    parts = []
    while data := c.recv(MB):
        parts.append(data)
    return b"".join(parts)


def is_reset(port, data=b""):
    # The reset may be quicker than connect()'s return.
    with pytest.raises(ConnectionResetError), connect(port) as c:
        c.sendall(data)
        c.recv(1)
    return True


def echoes(port, name=None, text=b"hello"):
    with connect(port) as c:
        f = c.makefile("rb")
        assert name is None or f.readline() == b"%d\n" % name
        name is None and f.readline()
        c.sendall(text)
        return f.read(len(text)) == text


def works(port):
    with contextlib.suppress(OSError):
        return echoes(port)
    return False
