"""pico-apiserver where others misbehave: engines that hang up, clusters with impossible tokens, sandboxes
that try to get out or that stop."""
import array
import contextlib
import fcntl
import functools
import http.server
import json
import os
import re
import socket
import socketserver
import termios
import threading

import pytest

from lab import run, wait_for
from sandboxes import Api, token


class Engine(http.server.ThreadingHTTPServer):
    """An engine that a test can make stumble. Its containers are one sshd that shows a banner."""

    daemon_threads = True
    address_family = socket.AF_UNIX

    def __init__(self, path):
        self.hold = {}  # word of a path: an Event that the answer waits for
        self.answer = {}  # word of a path: another status
        self.asked = []
        self.labels = {}
        self.sshd = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.banners, daemon=True).start()
        socketserver.TCPServer.__init__(self, path, Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)

    def banners(self):
        while True:
            try:
                s, _ = self.sshd.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), s:
                s.sendall(b"SSH-2.0-none\r\n")

    def close(self):
        self.shutdown()
        self.server_close()
        self.sshd.close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def reply(self, status, body=None):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do(self):
        e = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        e.asked.append(f"{self.command} {self.path}")
        for word, event in list(e.hold.items()):
            if word in self.path:
                event.wait(20)
        for word, status in e.answer.items():
            if word in self.path:
                if status is None:
                    self.close_connection = True
                    return None
                return self.reply(status, {"message": "no"})
        if "/create?" in self.path:
            e.labels = body["Labels"]
            return self.reply(201, {"Id": "c0ffee"})
        if "/containers/json?" in self.path:
            found = [{"Id": "c0ffee", "Labels": e.labels, "State": "running"}] if e.labels else []
            return self.reply(200, found)
        if self.path.endswith("/json"):
            return self.reply(200, {"Id": "c0ffee", "State": {"Running": True}, "Config": {"Labels": e.labels},
                                    "NetworkSettings": {"IPAddress": "127.0.0.1"}})
        if self.command == "DELETE":
            e.labels = {}
        return self.reply(204 if self.command == "DELETE" or "/start" in self.path or "pause" in self.path else 404, {})

    do_GET = do_POST = do_DELETE = do


@pytest.fixture
def engine(tmp_path):
    e = Engine(str(tmp_path / "engine.sock"))
    yield e
    e.close()


def docker(engine, tmp_path):
    return Api(tmp_path, "--docker", f"unix://{tmp_path}/engine.sock", "--ssh-port",
               str(engine.sshd.getsockname()[1]), backend="docker")


def test_an_engine_that_hangs_up_while_a_container_starts(engine, tmp_path):
    """The look after the lost wait must not meet the question for the host key."""
    engine.hold["/archive"] = held = threading.Event()
    engine.answer["/wait"] = None
    a = docker(engine, tmp_path)
    timer = threading.Timer(0.8, held.set)
    timer.start()
    try:
        s = a.create()
        assert s["status"] == "running"
        wait_for(lambda: sum(q.endswith("/wait") for q in engine.asked) > 1, 10, "the container is waited for again")
        # its sshd says no more than its banner: that is no command that ended
        r = a.request("POST", f"/v1/sessions/{s['session_id']}/commands", {"command": "true"})
        assert r.status == 502 and r.json["error"] == "COMMAND_FAILED", r.body
        assert a.request("POST", f"/v1/sessions/{s['session_id']}/pause").json["status"] == "paused"
    finally:
        timer.cancel()
        held.set()
        a.end()


def test_delete_of_a_failed_session_waits_for_its_box(engine, tmp_path):
    engine.answer["/start"] = 500
    engine.hold["/containers/json?"] = held = threading.Event()
    held.set()
    a = docker(engine, tmp_path)
    try:
        held.clear()
        s = a.request("POST", "/v1/sessions", headers={"Prefer": "respond-async"}).json["session_id"]
        wait_for(lambda: a.request("GET", f"/v1/sessions/{s}").json["status"] == "failed", 10, "failed")
        got = []
        t = threading.Thread(target=lambda: got.append(a.request("DELETE", f"/v1/sessions/{s}").status))
        t.start()
        wait_for(lambda: a.request("GET", f"/v1/sessions/{s}").status == 404, 10, "deleting")
        assert not got and engine.labels, "answered before the container was removed"
        held.set()
        t.join(20)
        assert got == [200] and not engine.labels
    finally:
        held.set()
        a.end()


def test_all_who_wait_for_a_failed_create_hear_so(engine, tmp_path):
    """Also a second client with the same Idempotency-Key, and one that comes later."""
    engine.hold["/create?"] = held = threading.Event()
    engine.answer["/create?"] = 500
    a = docker(engine, tmp_path)
    got = []

    def post():
        got.append(a.request("POST", "/v1/sessions", headers={"Idempotency-Key": "k"}))
    try:
        threads = [threading.Thread(target=post) for _ in range(2)]
        for t in threads:
            t.start()
        wait_for(lambda: a.request("GET", "/metrics").body.count(b"pico_connections 3"), 10, "both wait")
        held.set()
        for t in threads:
            t.join(20)
        assert [r.status for r in got] == [503, 503], [r.body for r in got]
        assert all(r.json["error"] == "SANDBOX_FAILED" for r in got)
    finally:
        held.set()
        a.end()


def test_a_token_that_no_header_can_have(tmp_path):
    """A broken token file is a sentence in the log, and no end of the server."""
    (tmp_path / "token").write_bytes(b"a\x01b")
    config = tmp_path / "config"
    config.write_text("current-context: c\ncontexts:\n- name: c\n  context: {}\n".replace("{}", "\n    cluster: k\n    user: u") +
                      "clusters:\n- name: k\n  cluster:\n    server: http://127.0.0.1:1\n"
                      f"users:\n- name: u\n  user:\n    tokenFile: {tmp_path}/token\n")
    a = Api(tmp_path, "--kubeconfig", str(config), backend="kubernetes")
    try:
        r = a.request("POST", "/v1/sessions")
        assert r.status == 503 and "a token" in r.json["message"], r.body
        assert a.request("GET", "/health").status == 200
    finally:
        a.kill()


# errno of keyctl, of clone with CLONE_NEWUSER, of clone3 (x86-64 and arm64)
FILTERED = """
import ctypes, platform
c = ctypes.CDLL(None, use_errno=True)
keyctl, clone = (250, 56) if platform.machine() == "x86_64" else (219, 220)
for call in ((keyctl, 0, -3, 0), (clone, 0x10000000 | 17, 0, 0, 0, 0), (435, 0, 0)):
    if c.syscall(*call) == -1: print(ctypes.get_errno())
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    a = Api(tmp_path_factory.mktemp("faults"))
    yield a
    a.end()


def test_the_fence_of_a_process_sandbox(api):
    keys = run("cat", "/proc/keys", check=False).stdout  # of those who started the server; if the kernel has any
    ours = {line.split()[0] for line in keys.splitlines()}
    s, t = (api.create()["session_id"] for _ in range(2))
    uids = {api.run(x, "id -u")["stdout"] for x in (s, t)}
    assert len(uids) == 2, "two sandboxes with the limits and keyrings of one user"
    mounts = api.run(s, "cat /proc/self/mounts")["stdout"]
    for path in ("/usr", "/proc/sys", "/proc/sysrq-trigger", "/proc/irq"):
        assert not os.path.exists(path) or re.search(rf" {path} \S+ ro[, ]", mounts), mounts
    assert not ours & {line.split()[0] for line in api.run(s, "cat /proc/keys")["stdout"].splitlines()}
    # neither root in a namespace of one's own, nor keyrings, nor 32-bit calls around that
    r = api.run(s, "unshare -U true; unshare -Ur true; python3 -c '" + FILTERED + "'; grep Seccomp: /proc/self/status")
    assert r["stdout"].split() == ["1", "1", "38", "Seccomp:", "2"] and r["stderr"].count("unshare failed") == 2, r
    for x in (s, t):
        assert api.request("DELETE", f"/v1/sessions/{x}").status == 200


def test_a_user_who_stops_all_that_starts(api):
    """Process 1 of the sandbox goes on: it must end on time even if the server does not."""
    s = api.create()["session_id"]
    api.run(s, "cat >stop.py <<'X'\nimport os, signal\nwhile True:\n    try: os.kill(-1, signal.SIGSTOP)\n"
               "    except OSError: pass\nX\nsetsid python3 stop.py >/dev/null 2>&1 &")

    def stopped():
        r = api.request("POST", f"/v1/sessions/{s}/commands", {"command": "true", "timeout": 0.2}, timeout=15)
        return r.json.get("timed_out")
    wait_for(stopped, 20, "a command is stopped")
    assert api.request("POST", f"/v1/sessions/{s}/pause", timeout=15).json["status"] == "paused"
    assert api.request("DELETE", f"/v1/sessions/{s}").status == 200


def test_as_many_commands_at_once_as_may_be(api):
    s = api.create()["session_id"]
    body = b'{"command":"sleep 60"}'
    head = (f"POST /v1/sessions/{s}/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    open_ones = []
    for _ in range(64):
        open_ones.append(socket.create_connection(("127.0.0.1", api.port)))
        open_ones[-1].sendall(head + body)
    wait_for(lambda: api.request("POST", f"/v1/sessions/{s}/commands", {"command": "true"}).status == 429, 20, "it is full")
    r = api.request("PUT", f"/v1/sessions/{s}/files?path=f", b"x")
    assert r.status == 429 and r.json["error"] == "TOO_MANY_COMMANDS" and r.headers["Retry-After"]
    for c in open_ones:
        c.close()
    wait_for(lambda: api.request("POST", f"/v1/sessions/{s}/commands", {"command": "true"}).status == 200, 20, "there is room")
    assert api.request("DELETE", f"/v1/sessions/{s}").status == 200


def test_a_secret_on_the_command_line_is_not_left_there_and_a_command_may_be_too_long(tmp_path):
    a = Api(tmp_path, "--jwt-secret", "do-not-show-this-to-anybody-here", "--sandbox-address", "127.0.0.1:1", backend="address")
    try:
        with open(f"/proc/{a.proc.pid}/cmdline") as f:
            line = f.read()
        assert "pico-apiserver" in line and "--jwt-secret" in line and "show" not in line
        me = token("do-not-show-this-to-anybody-here", "me")
        # over SSH a command has less room than elsewhere
        s = a.create(me)["session_id"]
        r = a.request("POST", f"/v1/sessions/{s}/commands", {"command": "true" + " " * 70000}, token=me)
        assert r.status == 413, r.body
    finally:
        a.stop()


def test_what_the_kernel_allows(api):
    """capabilities(7): those that sshd needs to log people in, for root in it, too; nothing can add to them."""
    s = api.create()["session_id"]
    status = api.run(s, "cat /proc/self/status")["stdout"]
    assert int(re.search(r"CapBnd:\t(\w+)", status)[1], 16) == sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 18, 29))
    for name in "CapEff", "CapPrm", "CapInh", "CapAmb":
        assert f"{name}:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status and "Seccomp:\t2\n" in status
    assert api.request("DELETE", f"/v1/sessions/{s}").status == 200


def is_stuck(sock, last):
    """There is something to be read, and no more than when we looked last."""
    there = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, there)
    before, last[0] = last[0], there[0]
    return there[0] > 0 and there[0] == before


def test_a_client_that_reads_slowly(api):
    """Of a streamed command it gets all, however long it does not read; nobody else waits."""
    s = api.create()["session_id"]
    body = json.dumps({"command": "head -c 5000000 /dev/zero | tr '\\0' y", "stream": True}).encode()
    with socket.socket() as c:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", api.port))
        c.settimeout(20)
        c.sendall(f"POST /v1/sessions/{s}/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        data = c.recv(100)
        wait_for(functools.partial(is_stuck, c, [0]), 20, "all buffers full")
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while piece := c.recv(1 << 20):
            data += piece
    assert data.count(b"y") >= 5000000 and b'"exit_code":0' in data, data[-200:]
    assert api.request("DELETE", f"/v1/sessions/{s}").status == 200
