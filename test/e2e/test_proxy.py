"""tsctl's local side as an HTTP proxy: what must pass unchanged, and what must not pass."""
import json
import os
import socket
import threading

import pytest
from lab import BIN, REMOTE, Docker, run, wait_for

pytestmark = pytest.mark.tunnel

ECHO = """
import socket, sys, threading
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def serve(c):
    while (d := c.recv(65536)): c.sendall(d)
    c.sendall(b"<end>")
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def _open(lab, port=None):
    s = socket.create_connection(("127.0.0.1", port or lab.tsctl.port))
    s.settimeout(15)
    return s


def _all(s):
    got = b""
    try:
        while chunk := s.recv(65536):
            got += chunk
    except ConnectionResetError:
        pass
    s.close()
    return got


def _ask(lab, text, port=None):
    s = _open(lab, port)
    s.sendall(text if isinstance(text, bytes) else text.encode())
    return _all(s)


def _curl(lab, *args, **kw):
    return run("curl", "-sS", "-m", "20", *args, env=lab.env, **kw)


def test_http2_preface_is_spliced(lab):
    """A client that opens with the HTTP/2 preface gets a plain pipe to the engine (here one that
    echoes, so that every byte can be compared)."""
    port = lab.free_port()
    lab.program("echo", ["/usr/bin/python3", "-c", ECHO, port], remote=True)
    wait_for(lambda: f":{port}" in lab.remote("ss", "-ltn").stdout, 10, "echo engine")
    g = lab.start_guest("--docker", f"tcp://127.0.0.1:{port}")
    t = lab.start_tsctl(g)
    for preface in ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [b"PRI * HTTP/2.0\r\n", b"\r\nSM\r", b"\n\r\n"]):
        data = os.urandom(3_000_000)
        s = _open(lab, t.port)
        got = []
        reader = threading.Thread(target=lambda: got.append(_all(s)))
        for part in preface:
            s.sendall(part)
        reader.start()
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        reader.join(20)
        assert got and got[0] == b"".join(preface) + data + b"<end>"


def test_keep_alive_and_pipelining(lab):
    one = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    got = _ask(lab, one * 5 + last)
    assert got.count(b"HTTP/1.1 200 OK") == 6
    assert got.index(b"ApiVersion") > got.rindex(b"Api-Version")


def test_http_1_0(lab):
    got = _ask(lab, "GET /_ping HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.") and b" 200 " in got.split(b"\r\n")[0] and got.endswith(b"OK")


def test_head(lab):
    got = _ask(lab, "HEAD /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200") and got.endswith(b"\r\n\r\n")


def test_request_one_byte_at_a_time(lab):
    s = _open(lab)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for b in b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":
        s.sendall(bytes([b]))
    assert _all(s).endswith(b"OK")


def test_unversioned_and_versioned_paths(lab):
    for path in ("/version", "/v1.41/version", "/v1.24/version"):
        r = json.loads(_curl(lab, lab.tsctl.url.replace("tcp", "http") + path).stdout)
        assert r["ApiVersion"]


def test_create_with_chunked_body_and_unknown_fields(lab):
    name = lab.name()
    body = json.dumps({"Image": "bb", "Cmd": ["true"], "Labels": {"l": "x" * 1_000_000}, "NoSuchField": {"a": [1, 2.50]}})
    out = _curl(lab, "-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/json",
                "--data-binary", "@-", lab.tsctl.url.replace("tcp", "http") + f"/containers/create?name={name}", input=body).stdout
    assert "Id" in json.loads(out)
    assert Docker(lab).inspect(name, "{{len .Config.Labels.l}}") == "1000000"


def test_expect_100_continue(lab):
    name = lab.name()
    body = json.dumps({"Image": "bb", "Cmd": ["true"]}).encode()
    s = _open(lab)
    s.sendall(f"POST /containers/create?name={name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode())
    first = s.recv(65536)
    assert first.startswith(b"HTTP/1.1 100")
    s.sendall(body)
    assert b"HTTP/1.1 201" in first + _all(s)


def test_start_twice_is_304(lab):
    docker = Docker(lab)
    name = docker.sleeper()
    got = _ask(lab, f"POST /containers/{name}/start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
                    "\r\nGET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 304") and got.endswith(b"OK")


BAD = {
    "two lengths": "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunked": "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked on 1.0": "POST /x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF": "GET /_ping HTTP/1.1\nHost: localhost\n\n",
    "bare CR in a value": "GET /_ping HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    "folded line": "GET /_ping HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "space before colon": "GET /_ping HTTP/1.1\r\nHost: localhost\r\nContent-Length : 0\r\n\r\n",
    "two hosts": "GET /_ping HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "no host": "GET /_ping HTTP/1.1\r\n\r\n",
    "signed length": "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +3\r\n\r\nabc",
    "huge chunk": "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx",
    "junk chunk size": "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
    "NUL": "GET /_ping HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "not HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
}


@pytest.mark.parametrize("what", BAD)
def test_ambiguous_requests_are_refused(lab, what):
    """400 and a close; the request behind the bad one is never answered."""
    behind = "GET /_ping HTTP/1.1\r\nHost: localhost\r\nX-Behind: 1\r\n\r\n"
    got = _ask(lab, (BAD[what] + behind).encode("latin-1"))
    # A body that turns out bad may be found after the engine's own answer to the head.
    statuses = [l.split()[1] for l in got.split(b"\r\n") if l.startswith(b"HTTP/1.")]
    assert got == b"" or statuses[-1] in (b"400", b"501", b"502"), got[:300]
    assert b"Api-Version" not in got


def test_head_too_large(lab):
    got = _ask(lab, "GET /_ping HTTP/1.1\r\nHost: localhost\r\n" + "X: " + "y" * 300_000 + "\r\n\r\n")
    assert got == b"" or got.split()[1] in (b"400", b"431")


# DNS rebinding: a web page must not reach the listener.

@pytest.mark.parametrize("header", ["Host: evil.example", "Host: evil.example:2375", "Origin: http://evil.example",
                                    "Origin: null"])
def test_foreign_host_and_origin_are_refused(lab, header):
    url = lab.tsctl.url.replace("tcp", "http") + "/_ping"
    assert _curl(lab, "-o", "/dev/null", "-w", "%{http_code}", "-H", header, url).stdout == "403"


@pytest.mark.parametrize("host", ["localhost", "localhost:2375", "127.0.0.1", "127.0.0.1:2375", "LOCALHOST"])
def test_local_hosts_are_served(lab, host):
    url = lab.tsctl.url.replace("tcp", "http") + "/_ping"
    assert _curl(lab, "-H", f"Host: {host}", url).stdout == "OK"


def test_unix_listener(lab):
    path = lab.path("local.sock")
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"unix://{path}",
                              "--ts-server", lab.guest.address, *lab.mtls_client_flags()])
    wait_for(lambda: os.path.exists(path), 10, "socket")
    assert os.stat(path).st_mode & 0o077 == 0
    docker = Docker(lab, host=f"unix://{path}")
    assert docker.out("run", "-i", "--rm", "bb", "cat", input="over unix") == "over unix"
    assert _curl(lab, "--unix-socket", path, "-H", "Host: anything", "http://docker/_ping").stdout == "OK"
    assert t.stop() == 0
    assert not os.path.exists(path)


def test_remote_docker_flag(lab):
    for where in ("unix:///var/run/docker.sock",):
        t = lab.start_tsctl(lab.guest, "--remote-docker", where)
        assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"


def test_listen_on_every_address(lab):
    """--listen :PORT as in the seed."""
    port = lab.free_port()
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f":{port}", "--ts-server",
                              lab.guest.address, *lab.mtls_client_flags()]).wait_listening("127.0.0.1", port)
    assert Docker(lab, host=f"tcp://localhost:{port}").out("version", "-f", "ok") == "ok"
    assert t.stop() == 0


def test_default_ports(lab):
    """443 with a certificate, 80 without."""
    g = lab.start_guest(port=443)
    t = lab.start_tsctl(g.address.split(":")[0])
    assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"
    lab.start_guest(port=80, mtls=False)
    t = lab.start_tsctl(REMOTE, mtls=False)
    assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"
