"""The guest's plain HTTP endpoints, for simple clients."""
import json
import os
import socket

import pytest
from lab import BIN, REMOTE, Docker, run, wait_for

pytestmark = pytest.mark.tunnel
API = "/tinyscale/v1/host-exec"


@pytest.fixture
def guest(plain_guest):
    return plain_guest


def _curl(lab, *args, **kw):
    return run("curl", "-sS", "-m", "20", *args, env=lab.env, **kw)


def _status(lab, *args, **kw):
    return _curl(lab, "-o", "/dev/null", "-w", "%{http_code}", *args, **kw).stdout


def test_health(lab, guest):
    assert _status(lab, guest.http + "/health") == "200"


def test_health_over_mtls(lab):
    p = lab.pki
    url = f"https://{lab.guest.address}/health"
    flags = ["--cacert", p.crt("ca")]
    assert _status(lab, *flags, "--cert", p.crt("client"), "--key", p.key("client"), url) == "200"
    assert _curl(lab, *flags, url, check=False).returncode != 0, "served without a client certificate"


def _command(guest, body, stdin=b"", close=True):
    s = socket.create_connection((REMOTE, guest.port))
    s.settimeout(15)
    data = json.dumps(body).encode()
    s.sendall(f"POST {API}/command HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
              f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data + stdin)
    if close:
        s.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := s.recv(65536):
        got += chunk
    s.close()
    head, _, rest = got.partition(b"\r\n\r\n")
    return head.decode(), rest


def test_command(lab, guest):
    head, out = _command(guest, {"command": "sh", "args": ["-c", "cat; echo $WHO"], "envs": ["WHO=me"]}, b"in ")
    assert head.startswith("HTTP/1.1 101 ") and "upgrade: tcp" in head.lower()
    assert out == b"in me\n"


def test_command_stdin_right_behind_the_body(lab, guest):
    """Early stdin, in the same packet as the request, is not lost."""
    data = os.urandom(1_000_000)
    head, out = _command(guest, {"command": "cat"}, data)
    assert head.startswith("HTTP/1.1 101 ") and out == data


def test_command_bad_bodies(lab, guest):
    for body in ("", "{", "[]", '{"args":[]}', '{"command":5}', '{"command":""}'):
        code = _status(lab, "-X", "POST", "-H", "Connection: Upgrade", "-H", "Upgrade: tcp", "--data-binary", body,
                       f"{guest.http}{API}/command")
        assert code == "400", body


def test_command_not_found(lab, guest):
    head, _ = _command(guest, {"command": "no-such-program-here"})
    assert head.split()[1] in ("101", "404", "400", "500")


def test_command_policy(lab):
    g = lab.start_guest("--no-exec", mtls=False)
    head, _ = _command(g, {"command": "true"})
    assert head.split()[1] == "403"


def test_copy(lab, guest):
    path = lab.path("copied")
    data = os.urandom(2_000_000)
    src = lab.path("src")
    with open(src, "wb") as f:
        f.write(data)
    url = f"{guest.http}{API}/copy?path={path}"
    assert _status(lab, "-X", "POST", "-T", src, url + "&mode=0640").startswith("2")
    assert open(path, "rb").read() == data and os.stat(path).st_mode & 0o777 == 0o640
    inode = os.stat(path).st_ino
    with open(src, "wb") as f:
        f.write(b"new")
    assert _status(lab, "-X", "POST", "-T", src, "-H", "Transfer-Encoding: chunked", url).startswith("2")
    assert open(path, "rb").read() == b"new" and os.stat(path).st_ino != inode
    assert [f for f in os.listdir(lab.dir) if "copied" in f] == ["copied"], "a temporary file stayed"


def test_copy_that_breaks_off_leaves_the_old_file(lab, guest):
    path = lab.path("kept")
    with open(path, "w") as f:
        f.write("old")
    s = socket.create_connection((REMOTE, guest.port))
    s.sendall(f"POST {API}/copy?path={path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode() + b"z" * 5000)
    s.close()
    wait_for(lambda: [f for f in os.listdir(lab.dir) if "kept" in f] == ["kept"], 10, "temporary file removed")
    assert open(path).read() == "old"


def test_copy_errors(lab, guest):
    for query in ("", "?path=", "?path=relative/file", "?path=/no/such/dir/file", f"?path={lab.dir}",
                  f"?path={lab.path('m')}&mode=999"):
        code = _status(lab, "-X", "POST", "--data-binary", "x", f"{guest.http}{API}/copy{query}")
        assert code.startswith(("4", "5")), query
    assert not os.path.exists(lab.path("m"))


def test_directories(lab, guest):
    a, b = lab.path("made/deep/er"), lab.path("made/b")
    for _ in range(2):
        assert _status(lab, "-X", "POST", "--data-binary", json.dumps([a, b]), f"{guest.http}{API}/directories").startswith("2")
    assert os.path.isdir(a) and os.path.isdir(b)
    for bad in ("{}", "[1]", '["relative"]', "", "[" * 10000):
        assert _status(lab, "-X", "POST", "--data-binary", bad, f"{guest.http}{API}/directories") == "400", bad[:20]


def test_any_other_path_is_the_engine(lab, guest):
    assert _curl(lab, guest.http + "/_ping").stdout == "OK"
    docker = Docker(lab, host=f"tcp://{guest.address}")
    assert docker.out("run", "-i", "--rm", "bb", "cat", input="hijacked") == "hijacked"


def test_metrics(lab, guest):
    assert _status(lab, guest.http + "/metrics") == "200"


def test_cli_over_mtls_without_tsctl(lab):
    """The docker CLI itself speaks mTLS to the guest."""
    p = lab.pki
    docker = Docker(lab, host=f"tcp://{lab.guest.address}")
    tls = ["--tlsverify", "--tlscacert", p.crt("ca"), "--tlscert", p.crt("client"), "--tlskey", p.key("client")]
    assert docker.out(*tls, "run", "-i", "--rm", "bb", "cat", input="x") == "x"


def test_foreign_host_and_origin_on_a_plain_guest(lab):
    """Loopback without certificates is no shelter from a web page either."""
    port = lab.free_port()
    g = lab.program("guest", [BIN + "/guest", "--port", port], remote=True)
    wait_for(lambda: lab.remote("curl", "-s", f"http://127.0.0.1:{port}/health", check=False).returncode == 0, 10)
    code = lab.remote("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Origin: http://evil.example",
                      f"http://127.0.0.1:{port}/_ping").stdout
    assert code == "403"
    g.stop()
