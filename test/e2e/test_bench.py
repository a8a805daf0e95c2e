"""The bench's instruments: the load generator notices what a relay does wrong, the runner runs."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

import pytest
from lab import BIN, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.environ.get("TSTUNNEL_BENCH", ROOT + "/build/gcc/bench")


def free_ports(n):
    with_them = [socket.socket() for _ in range(n)]
    for s in with_them:
        s.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in with_them]
    for s in with_them:
        s.close()
    return found


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def relay(request):
    """A relay of bench/relay.c; .load(mode, option...) gives the exit code and the result."""
    class Relay:
        port, target = free_ports(2)

        def load(self, mode, *options):
            r = subprocess.run([TOOLS + "/load", mode, "--connect", f"127.0.0.1:{self.port}", "--listen",
                                f"127.0.0.1:{self.target}", "--conns", "4", "--time", "50ms", "--warm", "10ms", "--grace",
                                "10s" if request.param in ("splice", "copy") else "300ms", "--pid", str(p.pid), *options],
                               capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            return r.returncode, json.loads(r.stdout)
    p = subprocess.Popen([TOOLS + "/relay", request.param, str(Relay.port), str(Relay.target)])
    wait_for(lambda: listens(Relay.port), what="the relay listens")
    yield Relay()
    p.kill()
    p.wait()


def relays(*names):
    return pytest.mark.parametrize("relay", names, indirect=True)


WAYS = pytest.mark.parametrize("way", ["up", "down", "both"])


@relays("splice", "copy")
@WAYS
def test_right_relays_are_right(relay, way):
    for options in ((), ("--amount", "3")):
        status, r = relay.load(way, *options)
        assert status == 0, r
        assert r["bytes"] > 0 and r["mb_per_s"] > 0 and r["cpu"][0] > 0
        assert r["bad"] == r["short"] == r["half_close_lost"] == r["unfinished"] == r["errors"] == 0
    assert r["bytes"] >= 3_000_000 * 4


@relays("splice", "copy")
def test_right_relays_talk(relay):
    status, r = relay.load("ping")
    assert status == 0 and r["round_trips"] > 0 and 0 < r["p50_us"] <= r["p99_us"] <= r["p999_us"]
    status, r = relay.load("connect")
    assert status == 0 and r["done"] > 0 and r["failed"] == 0


@relays("corrupt")
@WAYS
def test_a_corrupted_byte_is_noticed(relay, way):
    status, r = relay.load(way, "--amount", "1")
    assert status == 1 and r["bad"] == 4 and r["short"] == 0


@relays("corrupt")
def test_a_corrupted_message_is_noticed(relay):
    status, r = relay.load("ping", "--size", "30000", "--time", "500ms")
    assert status == 1 and r["bad"] > 0


@relays("lose")
@WAYS
def test_a_lost_byte_is_noticed(relay, way):
    status, r = relay.load(way, "--amount", "1")
    assert status == 1 and r["bad"] == 4 and r["short"] == 4


@relays("deaf")
@WAYS
def test_a_swallowed_half_close_is_noticed(relay, way):
    status, r = relay.load(way, "--amount", "1")
    assert status == 1 and r["bad"] == r["short"] == 0 and r["unfinished"] == 4


@relays("slam")
@WAYS
def test_a_half_close_that_ends_both_ways_is_noticed(relay, way):
    status, r = relay.load(way, "--amount", "1")
    assert status == 1 and r["bad"] == 0 and r["half_close_lost"] + r["short"] == 4
    if way != "both":  # there it may end what the other way still had to say
        assert r["half_close_lost"] == 4


@pytest.fixture
def answers():
    """A server that gives one of its answers after the other to whatever comes, the last for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    replies = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as s:
                    while s.recv(4096):
                        s.sendall(replies.pop(0) if len(replies) > 1 else replies[0])
    threading.Thread(target=serve, daemon=True).start()

    def ask(mode, *answers_and_options):
        replies[:] = [a for a in answers_and_options if isinstance(a, bytes)]
        options = [a for a in answers_and_options if not isinstance(a, bytes)]
        return subprocess.run([TOOLS + "/load", mode, "--connect", f"127.0.0.1:{listener.getsockname()[1]}", "--listen", "127.0.0.1:0",
                               "--time", "50ms", "--warm", "10ms", *options], capture_output=True, text=True, timeout=30)
    yield ask
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_wrong_answer_is_noticed(answers):
    def ok(body, status=b"200 OK"):
        return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)
    r = answers("http", ok(b"yes"))
    assert r.returncode == 0 and json.loads(r.stdout)["requests"] > 0, r.stderr
    for wrong in (ok(b"yet"), ok(b"yes!"), ok(b"yes", b"404 No"), ok(b"yes", b"503 Aa"), ok(b"yes") + b"x"):
        r = answers("http", ok(b"yes"), ok(b"yes"), wrong, "--limit", "2s")
        assert r.returncode != 0, wrong


def test_a_refused_connect_is_noticed(answers):
    r = answers("ping", b"HTTP/1.1 404 Not Found\r\n\r\n", "--through", "/x")
    assert r.returncode == 3 and "CONNECT: HTTP/1.1 404 Not Found" in r.stderr


def run_argv(*args):
    return ["/usr/bin/python3", "-B", ROOT + "/bench/run.py", "--quick", "--rounds", "1",
            "--peers", "splice,ours-tls", *args]


def run_env():
    return dict(os.environ, TSTUNNEL_BIN=BIN, TSTUNNEL_BENCH=TOOLS)


@pytest.mark.tunnel
def test_the_runner_runs(tmp_path):
    r = subprocess.run(run_argv("--only", "bulk,ping", "--streams", "2", "--time", "0.1", "--out", tmp_path), env=run_env(),
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    text = (tmp_path / "RESULTS.md").read_text()
    for words in ("## Bulk", "## Round trips", "| **ours-tls** |", "| splice |"):
        assert words in text
    assert text in r.stdout


@pytest.mark.tunnel
def test_the_bench_of_syncs_runs(tmp_path):
    (tmp_path / "RESULTS.md").write_text("# Results\n\n## Bulk\n\nthe other half\n\n## File sync\n\nold\n")
    r = subprocess.run(["/usr/bin/python3", "-B", ROOT + "/bench/sync.py", "--quick", "--only", "small", "--out", tmp_path],
                       env=run_env(), capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    text = (tmp_path / "RESULTS.md").read_text()
    assert "the other half" in text and "old" not in text and "not measured" not in text
    edits = next(line for line in text.split("### One edit")[1].splitlines() if line.startswith("| **tstunnel** |"))
    assert float(edits.split("|")[2].split("/")[0]) > 0


def test_the_bench_of_sandboxes_runs(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## Bulk\n\nthe relay\n\n## Sandboxes\n\nold\n\n## File sync\n\nfiles\n")
    r = subprocess.run(["/usr/bin/python3", "-B", ROOT + "/bench/sandbox.py", "--quick", "--only", "tunnel,health", "--rounds", "1",
                        "--time", "0.1", "--peers", "pico-apiserver", "--out", tmp_path], env=run_env(), capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Bulk", "## Sandboxes", "## File sync"]
    assert "the relay" in text and "files" in text and "\nold\n" not in text and "not measured" not in text
    for part, column in (("### A tunnel's bytes", "kept"), ("### GET /health", "none")):
        row = next(line for line in text.split(part)[1].splitlines() if line.startswith("| **pico-apiserver** |"))
        assert float(row.split("|")[2].replace(",", "")) > 0 and row.endswith(f"| {column} |")


@pytest.mark.tunnel
def test_nothing_outlives_a_killed_runner():
    def ours():
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark in f.read():
                        found.append(pid)
            except OSError:
                pass
        return found
    mark = b"TSTUNNEL_BENCH_TEST=%d" % os.getpid()
    env = dict(run_env(), TSTUNNEL_BENCH_TEST=str(os.getpid()))
    p = subprocess.Popen(run_argv("--only", "bulk", "--time", "30"), env=env, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(ours()) >= 4, what="the runner, its relays")
    p.send_signal(signal.SIGKILL)
    p.wait()
    wait_for(lambda: not ours(), what="all of them gone")
