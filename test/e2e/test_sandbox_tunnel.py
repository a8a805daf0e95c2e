"""pico-apiserver with backend process: the tunnel, SSH through it, time, restarts."""
import fcntl
import json
import os
import pty
import resource
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

from lab import run, wait_for
from sandboxes import Api


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    a = Api(tmp_path_factory.mktemp("tunnel"))
    yield a
    a.end()


@pytest.fixture
def session(api):
    s = api.create()["session_id"]
    yield s
    api.request("DELETE", f"/v1/sessions/{s}")


def test_ssh(api, session):
    p = api.ssh(session, "pwd; whoami; python --version; for i in {1..3}; do echo $i; done; exit 5")
    assert p.stdout.split(b"\n")[:2] == [b"/workspace", b"sandbox"], p.stderr
    assert p.stdout.split(b"\n")[2].startswith(b"Python 3.") and p.returncode == 5
    assert b"Permission denied" in api.ssh(session, "true", password="wrong").stderr


def test_terminal(api, session):
    """A person's shell: with a terminal, its size, and Ctrl-C."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe("ssh", ["ssh", "-tt", *api.ssh_options(session), "sandbox@sandbox"], api.ssh_env())
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    text = b""

    def until(what):
        nonlocal text
        end = time.monotonic() + 30
        while what not in text:
            assert time.monotonic() < end and select.select([fd], [], [], 30)[0], text
            text += os.read(fd, 4096)
    os.write(fd, b"tty; stty size; sleep 1001; echo x$((6*7))x\n")
    until(b"33 77")
    wait_for(lambda: api.run(session, "pgrep -xfc 'sleep 1001'")["stdout"] == "1\n")
    os.write(fd, b"\x03")
    os.write(fd, b"echo y$((6*7))y; exit 9\n")
    until(b"y42y")
    assert b"/dev/pts/" in text and b"x42x" not in text
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(fd)


def test_host_key_is_the_one_that_the_session_says(api, session):
    s = api.request("GET", f"/v1/sessions/{session}").json
    assert api.ssh(session, "true").returncode == 0
    known = os.path.join(api.tmp, f"known_hosts-{session}")
    assert s["ssh_host_key_fingerprint"] in run("ssh-keygen", "-lf", known).stdout


def test_public_key_instead_of_password(api, tmp_path):
    key = tmp_path / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    s = api.create(sshPublicKey=(tmp_path / "id.pub").read_text())["session_id"]
    assert api.ssh(s, "echo in", "-i", str(key)).stdout == b"in\n"
    assert api.ssh(s, "echo in").returncode == 255
    api.request("DELETE", f"/v1/sessions/{s}")


def test_scp_sftp_rsync(api, session, tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(8_000_000))
    opts, env = api.ssh_options(session), api.ssh_env()
    kw = dict(env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    p = subprocess.run(["scp", *opts, str(blob), "sandbox@sandbox:up"], **kw)
    assert p.returncode == 0, p.stderr
    p = subprocess.run(["scp", *opts, "sandbox@sandbox:/workspace/up", str(tmp_path / "down")], **kw)
    assert p.returncode == 0 and (tmp_path / "down").read_bytes() == blob.read_bytes()
    batch = tmp_path / "batch"
    batch.write_text("pwd\nls -l up\n")
    p = subprocess.run(["sftp", "-o", "BatchMode=no", "-b", str(batch), *opts, "sandbox@sandbox"], **kw)
    assert b"/workspace" in p.stdout and b"8000000" in p.stdout, p.stderr
    if os.path.exists("/usr/bin/rsync"):
        import shlex
        p = subprocess.run(["rsync", "-e", "ssh " + " ".join(shlex.quote(o) for o in opts), str(blob), "sandbox@sandbox:r"], **kw)
        assert p.returncode == 0, p.stderr
        assert api.run(session, "cmp r up")["exit_code"] == 0


def test_nothing_of_the_host_is_there(api, session):
    names = api.run(session, "ls -A /")["stdout"].split()
    assert not set(names) & {"work", "boot", "media", "mnt", "srv", "sys"}
    r = api.run(session, "ls /root /var/lib /etc/ssl/private /etc/ssh/ssh_host_ed25519_key; cat /etc/shadow")
    assert "root:" not in r["stdout"]
    assert api.run(session, "touch /usr/x; echo x >/etc/passwd; echo 1 >/proc/sys/kernel/panic; mount -t tmpfs x /tmp; mknod d b 7 0; "
                            "unshare -U true")["stdout"] == ""
    r = api.run(session, "grep -c . /proc/self/mounts; cat /proc/self/status | grep -E 'NoNewPrivs|CapEff|CapPrm'; ls /proc | grep -c '^[0-9]'")
    assert "NoNewPrivs:\t1" in r["stdout"] and "CapEff:\t0000000000000000" in r["stdout"]
    assert int(r["stdout"].split()[-1]) < 12, "it sees the host's processes"
    find = api.run(session, "find / -xdev -perm -4000 -type f 2>/dev/null; id -u")["stdout"]
    assert find.split()[-1] != "0"


def test_limits(api, session):
    r = api.run(session, "ulimit -u; python3 -c 'x = bytearray(1200*1024*1024); print(len(x))'", timeout=60)
    assert r["stdout"].startswith("512\n")
    if os.access("/sys/fs/cgroup/memory", os.W_OK) or os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        assert r["exit_code"] != 0, "1.2 GB were had of 1 GB"
    r = api.run(session, """python3 -c '
import os, signal
for n in range(700):
    try:
        if os.fork() == 0:
            signal.pause()
    except BlockingIOError:
        break
print(n, flush=True)
os.killpg(0, 9)'""", timeout=60)
    assert 400 < int(r["stdout"]) < 512, r
    assert api.run(session, "pkill -9 sleep; sleep 0.1; echo alive")["stdout"].endswith("alive\n")


def test_connect_errors(api, session):
    reply, _ = api.connect("d6bdc5a3-c963-4c0f-be75-bb8083739883")
    assert reply.status == 404 and reply.json["message"] == "Session not found"
    with socket.create_connection(("127.0.0.1", api.port)) as s:
        s.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert s.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


def test_not_ready(tmp_path):
    """An address where nobody listens is a sandbox that is not ready."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{port}", backend="address")
        try:
            reply, _ = a.connect(a.create()["session_id"])
            assert reply.status == 503 and reply.json["message"] == "Sandbox not ready", reply.body
            assert "refused" in reply.json["detail"]
        finally:
            a.stop()


def test_first_bytes_and_half_close(tmp_path):
    """What came with the request goes first; each direction ends on its own."""
    srv = socket.create_server(("127.0.0.1", 0))
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{srv.getsockname()[1]}", backend="address")
    try:
        s, rest = a.connect(a.create()["session_id"], first=b"early ")
        far, _ = srv.accept()
        s.sendall(b"bird")
        s.shutdown(socket.SHUT_WR)
        data = b""
        while piece := far.recv(100):
            data += piece
        assert data == b"early bird" and rest == b""
        far.sendall(b"late")
        far.close()
        assert s.recv(100) == b"late" and s.recv(100) == b""
    finally:
        a.stop()


def test_two_thousand_tunnels(tmp_path):
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    srv = socket.create_server(("127.0.0.1", 0), backlog=4096)
    far = []

    def accept():
        try:
            while True:
                far.append(srv.accept()[0])
        except OSError:
            pass
    threading.Thread(target=accept, daemon=True).start()
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{srv.getsockname()[1]}", backend="address")
    pid = a.proc.pid

    def memory():
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return sum(int(line.split()[1]) for line in f if line.startswith("Private_Dirty")) * 1024
    try:
        sid = a.create()["session_id"]
        near = [a.connect(sid)[0] for _ in range(100)]
        before = memory()
        near += [a.connect(sid)[0] for _ in range(1900)]
        wait_for(lambda: len(far) == 2000)
        for i in (0, 999, 1999):
            near[i].sendall(b"%d" % i)
        got = {}

        def all_there():
            for f in far:
                f.setblocking(False)
                try:
                    got[f.recv(10)] = f
                except BlockingIOError:
                    pass
            return set(got) >= {b"0", b"999", b"1999"}
        wait_for(all_there)
        assert b"pico_tunnels 2000" in a.request("GET", "/metrics").body
        each = (memory() - before) / 1900
        if not os.environ.get("TSTUNNEL_SAN"):
            assert each < 1024, f"{each:.0f} bytes for each tunnel"
        with open(f"/proc/{pid}/status") as f:
            assert "Threads:\t1\n" in f.read()
        a.request("DELETE", f"/v1/sessions/{sid}")
        near[5].settimeout(5)
        try:
            assert near[5].recv(1) == b""
        except ConnectionResetError:
            pass
        wait_for(lambda: b"pico_tunnels 0" in a.request("GET", "/metrics").body)
    finally:
        srv.close()
        a.stop()


def test_ttl(api):
    before = len(api.inits())
    s = api.create(ttl=3)  # whole seconds: from two on
    sock, _ = api.connect(s["session_id"])
    path = f"/v1/sessions/{s['session_id']}"
    wait_for(lambda: api.request("GET", path).status == 410)
    assert api.request("GET", path).json["error"] == "SESSION_EXPIRED"
    reply, _ = api.connect(s["session_id"])
    assert reply.status == 404 and reply.json["message"] == "Session not found"
    wait_for(lambda: len(api.inits()) == before)
    sock.settimeout(5)
    try:
        while sock.recv(1000):
            pass
    except ConnectionResetError:
        pass


def test_idle_timeout(api):
    quiet, busy = (api.create(idleTimeout=2)["session_id"] for _ in range(2))
    end = time.monotonic() + 4
    while time.monotonic() < end:
        api.run(busy, "true")
        assert api.request("GET", f"/v1/sessions/{busy}").status == 200
        time.sleep(0.3)
    wait_for(lambda: api.request("GET", f"/v1/sessions/{quiet}").status == 410, 5)  # asking is no activity
    wait_for(lambda: api.request("GET", f"/v1/sessions/{busy}").status == 410, 8)


def test_bytes_through_a_tunnel_are_activity(api):
    s = api.create(idleTimeout=2)["session_id"]
    p = api.ssh(s, "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.5; done")
    assert p.stdout.split()[-1] == b"10", p
    wait_for(lambda: api.request("GET", f"/v1/sessions/{s}").status == 410, 10)


def test_a_long_command_is_activity(api):
    s = api.create(idleTimeout=1)["session_id"]
    assert api.run(s, "sleep 3; echo here")["stdout"] == "here\n"
    wait_for(lambda: api.request("GET", f"/v1/sessions/{s}").status == 410)  # and its end begins the idle time


def test_restart(tmp_path):
    api = Api(tmp_path)
    a = api.create(metadata={"n": 1})
    b = api.create()["session_id"]
    api.run(a["session_id"], "echo kept >file")
    assert api.request("POST", f"/v1/sessions/{b}/pause").status == 200
    for end in (api.kill, api.stop):
        end()
        api.start()
        wait_for(lambda: {s["status"] for s in api.sessions()} == {"running", "paused"})
        again = [s for s in api.sessions() if s["session_id"] == a["session_id"]][0]
        for k in ("created_at", "expires_at", "metadata", "sandbox_name", "ssh_host_key_fingerprint"):
            assert again[k] == a[k]
        assert [s["session_id"] for s in api.sessions()] == [a["session_id"], b]
    assert api.run(a["session_id"], "cat file")["stdout"] == "kept\n"
    assert api.ssh(a["session_id"], "cat file").stdout == b"kept\n"
    assert api.run(b, "echo up")["stdout"] == "up\n"
    # A sandbox that ends while nobody looks is found to be gone.
    api.kill()
    for pid in api.inits():
        os.kill(int(pid), signal.SIGKILL)
    api.start()
    wait_for(lambda: {s["status"] for s in api.sessions()} <= {"failed"})
    api.end()


def test_requests_finish_after_sigterm(tmp_path):
    api = Api(tmp_path)
    s = api.create()["session_id"]
    told = []
    t = threading.Thread(target=lambda: told.append(api.run(s, "touch began; sleep 1; echo done")))
    t.start()
    wait_for(lambda: "began" in api.run(s, "ls")["stdout"])
    api.stop()
    t.join()
    assert told[0]["stdout"] == "done\n" and api.proc.returncode == 0
    api.end()


def test_a_sandbox_that_dies_is_told(api, session):
    mine = [p for p in api.inits() if session[:8].encode() in open(f"/proc/{p}/cmdline", "rb").read()]
    os.kill(int(mine[0]), signal.SIGKILL)
    wait_for(lambda: api.request("GET", f"/v1/sessions/{session}").json["status"] == "failed")
    reply, _ = api.connect(session)
    assert reply.status == 503 and "ended" in reply.json["detail"]


@pytest.mark.parametrize("wait_ms", [0, 3, 8, 15, 30])
def test_killed_in_the_middle_of_a_create(tmp_path, wait_ms):
    api = Api(tmp_path)
    for _ in range(3):
        t = threading.Thread(target=_post, args=(api.port,))
        t.start()
        time.sleep(wait_ms / 1000)
    api.kill()
    api.start()
    wait_for(lambda: all(s["status"] == "running" for s in api.sessions()))
    wait_for(lambda: len(api.inits()) == len(api.sessions()))
    wait_for(lambda: len(os.listdir(os.path.join(api.state, "boxes"))) == len(api.sessions()), 20, "what nobody knows is removed")
    api.end()


def _post(port):
    try:
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            s.recv(4096)
    except OSError:
        pass


def test_many_at_once(api):
    """The guide's concurrent section."""
    out = []

    def one():
        s = api.create()["session_id"]
        out.append(api.ssh(s, "echo $HOSTNAME").stdout.decode().strip() == f"sandbox-{s[:8]}")
        api.request("DELETE", f"/v1/sessions/{s}")
    threads = [threading.Thread(target=one) for _ in range(5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert out == [True] * 5


def test_without_a_state_dir_nothing_stays(tmp_path):
    """And Ctrl-C is enough."""
    api = Api(tmp_path)
    api.stop()
    from lab import BIN
    p = subprocess.Popen([os.path.join(BIN, "pico-apiserver"), "--port", "0", "--backend", "process"], stderr=subprocess.PIPE, text=True)
    line = ""
    while "listening" not in line:
        line = p.stderr.readline()
    api.port = int(line.split("addr=")[1].split()[0].rsplit(":", 1)[1])
    api.state = line.split("state=")[1].split()[0]
    api.create()
    assert len(api.inits()) == 1
    p.send_signal(signal.SIGINT)
    assert p.wait(20) == 0
    assert api.leftovers() == []
    assert json.dumps(api.inits()) == "[]"


def test_commands_and_files_over_ssh(api, session, tmp_path):
    """Where a backend has no way of its own: an address behind which a sandbox's sshd is."""
    srv = socket.create_server(("127.0.0.1", 0))

    def pipe(a, b):
        try:
            while d := a.recv(65536):
                b.sendall(d)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        try:
            while True:
                near = srv.accept()[0]
                far, rest = api.connect(session)
                far.settimeout(None)
                near.sendall(rest)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pipe, args=pair, daemon=True).start()
        except OSError:
            pass
    threading.Thread(target=accept, daemon=True).start()
    b = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{srv.getsockname()[1]}", backend="address")
    try:
        s = b.create()["session_id"]
        r = b.run(s, "echo out; echo \"it's $X\" >&2; cat; pwd; exit 3", stdin="in\n", env={"X": "a 'b'"}, cwd="/tmp")
        assert (r["stdout"], r["stderr"], r["exit_code"]) == ("out\nin\n/tmp\n", "it's a 'b'\n", 3)
        r = b.run(s, "sleep 4322 & sleep 4322", timeout=1)
        assert r["timed_out"] and r["exit_code"] == 124
        wait_for(lambda: api.run(session, "pgrep -fc '[s]leep 4322'")["stdout"] == "0\n")
        r = b.request("POST", f"/v1/sessions/{s}/commands", {"command": "for i in 1 2 3; do echo $i; done", "stream": True})
        lines = [json.loads(line) for line in r.body.splitlines()]
        assert "".join(x.get("data", "") for x in lines) == "1\n2\n3\n" and lines[-1]["exit_code"] == 0
        blob = os.urandom(3_000_000)
        path = f"/v1/sessions/{s}/files?path="
        assert b.request("PUT", path + "d/blob", blob).json["size"] == len(blob)
        assert b.request("GET", path + "d/blob").body == blob
        assert b.request("GET", path + "/etc/passwd").status == 403
        assert b.request("GET", path + "missing").status == 404
        assert b.request("PUT", path + "../x", b"x").status == 403
        assert api.run(session, "ls -A /tmp")["stdout"] == ""
        # as much as fits the channel, when nobody waits for more of it
        r = b.request("POST", f"/v1/sessions/{s}/commands", {"command": "head -c 1500000 /dev/zero | tr '\\0' y", "stream": True})
        assert sum(len(json.loads(line).get("data", "")) for line in r.body.splitlines()) == 1500000
        # a sandbox whose shell says another size than it sends
        api.run(session, "printf \"printf '1\\nabcdef'; exit 0\" >/home/sandbox/.bashrc")
        assert b.request("GET", path + "d/blob", timeout=10).body == b"a"
        assert b.request("GET", "/health").status == 200
    finally:
        srv.close()
        b.stop()
