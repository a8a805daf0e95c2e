"""Hijacked and long-lived connections: stdin, terminals, attach, slow readers, crowds."""
import concurrent.futures
import hashlib
import os
import socket
import subprocess
import time

from lab import BIN, DIRECT, FULL, SAN, Docker, Pty, wait_for

RUNS = int(os.environ.get("TSLAB_RUNS") or (1000 if FULL else 150))


def test_stdin_closed_by_client_many_times(docker1):
    """printf x | docker run -i … cat: nothing lost, nothing hangs. A third are new containers,
    the others exec: the same half close on a fresh hijacked connection."""
    name = docker1.sleeper()

    def one(i):
        want = f"x{i}"
        args = ["run", "-i", "--rm", "bb", "cat"] if i % 3 == 0 or FULL else ["exec", "-i", name, "cat"]
        return i, want, docker1(*args, input=want, timeout=60).stdout
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [(i, got) for i, want, got in pool.map(one, range(RUNS)) if got != want]
    assert not wrong


def test_stdin_run_each_cli(docker):
    for want in ("x", "", "many\nlines\n" * 1000):
        assert docker("run", "-i", "--rm", "bb", "cat", input=want).stdout == want


def test_binary_through_run_both_ways(docker):
    data = os.urandom(8 << 20)
    r = docker("run", "-i", "--rm", "bb", "sh", "-c", "tee /dev/stderr", input=data, text=False)
    assert hashlib.sha256(r.stdout).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(r.stderr).digest() == hashlib.sha256(data).digest()


def test_output_after_stdin_ended(docker):
    """The client's half close must not end the other direction."""
    r = docker("run", "-i", "--rm", "bb", "sh", "-c", "cat >/dev/null; sleep 0.5; echo late", input="x")
    assert r.stdout == "late\n"


def test_run_it_with_resize(docker):
    p = Pty([docker.cli, "run", "-it", "--rm", "bb", "sh"], docker.env, rows=31, cols=97)
    try:
        p.expect("/ # ")
        # The CLI tells the size after the start; both come soon, neither at once.
        _size(p, "31 97")
        p.resize(17, 55)
        _size(p, "17 55")
        p.send("exit 5\n")
        assert p.wait() == 5
    finally:
        p.close()


def _size(p, want):
    def same():
        p.send("stty size; echo do''ne\n")
        return want.encode() in p.expect("done\r\n")
    wait_for(same, 15, f"terminal size {want}")


def test_exec_it_with_resize(docker):
    name = docker.sleeper()
    p = Pty([docker.cli, "exec", "-it", name, "sh"], docker.env, rows=40, cols=120)
    try:
        p.expect("/ # ")
        _size(p, "40 120")
        p.resize(20, 60)
        _size(p, "20 60")
        p.send("exit 3\n")
        assert p.wait() == 3
    finally:
        p.close()


def test_ctrl_c_in_terminal(docker):
    p = Pty([docker.cli, "run", "-it", "--rm", "bb", "sh", "-c", "trap 'exit 42' INT; echo ready; while :; do sleep 0.1; done"],
            docker.env)
    try:
        p.expect("ready")
        p.send(b"\x03")
        assert p.wait() == 42
    finally:
        p.close()


def _on_unix_socket(lab, docker):
    """The same tunnel by a unix socket: over tcp:// without TLS the docker CLI itself loses its detach
    error (Go's TCPConn.ReadFrom wraps it) and waits for the container, whatever is behind."""
    if DIRECT:
        return docker
    path = lab.path(lab.name() + ".sock")
    lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"unix://{path}", "--ts-server", lab.guest.address,
                          *lab.mtls_client_flags()])
    wait_for(lambda: os.path.exists(path), 10, "socket")
    return Docker(lab, docker.cli, f"unix://{path}")


def test_attach_and_detach_keys(docker, lab):
    docker = _on_unix_socket(lab, docker)
    name = docker.lab.name()
    docker("run", "-dit", "--name", name, "bb", "sh")
    for flags, keys in ([], b"\x10\x11"), (["--detach-keys", "ctrl-x"], b"\x18"):  # Ctrl-P Ctrl-Q by default
        p = Pty([docker.cli, "attach", *flags, name], docker.env)
        try:
            p.send("echo he''re\n")
            p.expect("here")
            p.type(keys)
            p.expect("read escape sequence")
            p.wait()
        finally:
            p.close()
        assert docker.inspect(name, "{{.State.Running}}") == "true"


def test_attach_sees_output_and_status(docker):
    name = docker.lab.name()
    docker("create", "-i", "--name", name, "bb", "sh", "-c", "cat; exit 6")
    r = docker("start", "-ai", name, input="through attach", check=False)
    assert (r.returncode, r.stdout) == (6, "through attach")


def test_attach_without_upgrade_header(docker1, lab):
    """Old clients hijack without asking: the engine says a bare 200 and streams."""
    name = docker1.lab.name()
    docker1("run", "-d", "--name", name, "-i", "bb", "sh", "-c", "read a; echo got $a; sleep 0.2")
    s = _connect(lab)
    s.sendall(f"POST /v1.41/containers/{name}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
              "Content-Length: 0\r\n\r\n".encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += _some(s)
    assert got.startswith(b"HTTP/1.1 200 ")
    s.sendall(b"word\n")
    while chunk := _some(s):
        got += chunk
    assert got.endswith(b"got word\n")
    s.close()


def _connect(lab):
    if DIRECT:
        s = socket.socket(socket.AF_UNIX)
        s.connect(lab.engine_socket)
    else:
        s = socket.create_connection(("127.0.0.1", lab.tsctl.port))
    s.settimeout(20)
    return s


def _some(s):
    return s.recv(65536)


def test_logs_follow_idle(docker1):
    """Silence is not an error: a line after the idle time still arrives."""
    idle = 180 if FULL else 8
    name = docker1.lab.name()
    docker1("run", "-d", "--name", name, "bb", "sh", "-c", f"echo first; sleep {idle}; echo second; sleep 10000")
    p = docker1.popen("logs", "-f", name)
    assert p.stdout.readline() == b"first\n"
    start = time.monotonic()
    assert p.stdout.readline() == b"second\n"
    assert time.monotonic() - start > idle / 2
    p.kill()
    p.wait()


def test_many_commands_at_once(lab, docker1):
    """200 CLI commands at once all succeed."""
    total = 200
    name = docker1.sleeper()
    kinds = [("version", "-f", "{{.Server.Version}}"), ("ps", "-q"), ("exec", name, "echo", "hello"),
             ("inspect", "-f", "{{.Name}}", name), ("images", "-q")]
    procs = [docker1.popen(*kinds[i % len(kinds)]) for i in range(total)]
    bad = []
    for i, p in enumerate(procs):
        out, err = p.communicate(timeout=180)
        if p.returncode != 0 or not out.strip() or (i % 5 == 2 and out != b"hello\n"):
            bad.append((kinds[i % 5][0], p.returncode, out[:200], err[:300]))
    assert not bad, f"{len(bad)} of {total}: {bad[:3]}"


def test_stalled_attach_reader(docker1, lab):
    """100 MB through attach to a reader that stalls: memory stays bounded, others are unaffected,
    and when the reader wakes up it gets every byte."""
    total = 100 << 20
    name = lab.name()
    docker1("create", "--name", name, "--log-driver", "none", "bb", "sh", "-c",
            f"head -c {total} /dev/zero | tr '\\0' 'y'")
    p = docker1.popen("start", "-a", name)
    assert p.stdout.read(1) == b"y"
    time.sleep(1)  # the stall itself: pipes and windows fill up
    for _ in range(5):
        assert docker1.out("version", "-f", "ok", timeout=5) == "ok"
    if not DIRECT and not SAN:
        assert lab.tsctl.memory("VmRSS") < 32 and lab.guest.memory("VmRSS") < 32
    assert docker1.inspect(name, "{{.State.Running}}") == "true", "the writer was not held back"
    digest, n = hashlib.sha256(b"y"), 1
    while chunk := p.stdout.read(1 << 20):
        digest.update(chunk)
        n += len(chunk)
    assert p.wait(20) == 0
    assert n == total and digest.hexdigest() == hashlib.sha256(b"y" * total).hexdigest()


def test_client_gone_ends_its_exec_stream(docker1):
    """A killed client leaves nothing behind: its attach is closed at the engine, the container goes on."""
    name = docker1.lab.name()
    docker1("run", "-d", "-i", "--name", name, "bb", "cat")
    p = docker1.popen("attach", name, stdin=subprocess.PIPE)
    p.stdin.write(b"hello\n")
    p.stdin.flush()
    assert p.stdout.readline() == b"hello\n"
    p.kill()
    p.wait()
    assert docker1.inspect(name, "{{.State.Running}}") == "true"
