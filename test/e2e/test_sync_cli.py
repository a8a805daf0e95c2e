"""tsctl sync: the command line, its errors, what the guest allows, and what it costs others."""
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import time

import pytest
from forwards import services, url  # noqa: F401
from lab import BIN, Pty, run, wait_for
from syncs import Syncs, keep, read, start_guest, sy, tree, write  # noqa: F401

pytestmark = pytest.mark.tunnel

MEMBERS = ["alpha", "beta", "conflicts", "conflicts_total", "done", "id", "kind", "local", "mode", "name", "paused",
           "problems", "problems_total", "received", "remote", "sent", "skipped", "skipped_total",
           "state", "todo", "why"]


def test_a_syncs_life(sy):
    assert sy("list").split() == ["ID", "NAME", "ALPHA", "BETA", "MODE", "STATUS"]
    assert sy("list", "--json") == "[]\n" and sy.pid() == 0  # no daemon for that
    write(sy.a + "/x", "x")
    out = sy("create", "--name", "app", sy.a, sy.url())
    assert re.fullmatch("[0-9a-f]{12}\n", out)
    id = out.strip()
    assert sy("create", "--name", "app", sy.a + "/", sy.url()) == out  # the same again
    assert sy("create", "--name", "app", ".", sy.url(), cwd=sy.a) == out
    sy.flush("app")
    assert tree(sy.a) == tree(sy.b) != {}
    one = sy.is_("watching")
    assert sorted(one) == MEMBERS and one["id"].startswith(id) and one["kind"] == "manual"
    assert one["local"] == sy.a and one["remote"] == sy.url().split("?")[0]
    assert one["alpha"]["entries"] == 1 and one["why"] == "" and one["conflicts"] == one["problems"] == []
    row = sy("list", "app").splitlines()[1].split()
    assert row == [id, "app", sy.a, one["remote"], "two-way-safe", "watching"]
    assert "cert" not in sy("list") and "cert" not in sy("list", "--json")

    assert sy("pause", id[:6]) == "app\n"  # the start of its id
    assert sy.one()["state"] == "paused" and sorted(sy.one()) == MEMBERS
    wait_for(lambda: sy.workers() == [[], []], what="no worker")
    write(sy.a + "/y", "y")
    assert "paused" in sy.fails("flush", "app")
    assert sy("pause", "app") == "app\n"  # twice is no error
    assert sy("resume", "app") == "app\n" and sy("resume", "app") == "app\n"
    sy.alike()
    os.mkfifo(sy.a + "/pipe")
    wait_for(lambda: "  skipped: pipe (local): " in sy("list", "app"))
    os.unlink(sy.a + "/pipe")
    wait_for(lambda: sy.one()["skipped_total"] == 0)

    state = json.load(open(sy.state))
    assert state["version"] == 1 and len(state["syncs"]) == 1
    assert os.stat(sy.state).st_mode & 0o777 == 0o600
    assert sy("terminate", "app") == "app\n"
    sy.ended()  # with the last of them
    wait_for(lambda: sy.workers()[1] == [], what="no worker there")
    assert not os.path.exists(sy.state) and tree(sy.a) == tree(sy.b) != {}
    assert sy("list", "--json") == "[]\n"


def test_create_paused(sy):
    sy.create("--paused", "--name", "p")
    assert sy.one()["state"] == "paused" and not os.path.exists(sy.b)
    write(sy.a + "/x", "x")
    sy("resume", "p")
    sy.alike()


def test_what_create_refuses(lab, sy, tmp_path):
    ok = sy.url()
    assert sy.fails("create", sy.a + "/nix", ok) == f"Error: ALPHA {sy.a}/nix: no such directory\n"
    assert "neither a directory nor a file" in sy.fails("create", "/dev/null", ok)
    assert "ALPHA is the directory on this machine" in sy.fails("create", ok, sy.a, status=2)
    assert "tstunnel" in sy.fails("create", sy.a, "/somewhere", status=2)
    assert 'unknown parameter "crt"' in sy.fails("create", sy.a, ok.replace("cert=", "crt="), status=2)
    assert "not in a port" in sy.fails("create", sy.a, url(lab, "tcp:localhost:1", guest=sy.guest), status=2)
    assert "--mode" in sy.fails("create", "--mode", "both", sy.a, ok, status=2)
    assert "--name" in sy.fails("create", "--name", "a b", sy.a, ok, status=2)
    assert sy.pid() == 0
    for flags in ([], [sy.a], [sy.a, ok, "more"]):
        assert sy.try_("create", *flags).returncode == 2

    # Nothing is left of one that cannot be reached.
    nobody = re.sub(r":\d+/", f":{lab.free_port()}/", ok)
    message = sy.fails("create", sy.a, nobody)
    assert "connection refused" in message and "is guest running there" in message
    assert "ca=FILE" in sy.fails("create", sy.a, sy.url(ca=None, cert=None, key=None, insecure=None))
    assert "/nix/c.crt" in sy.fails("create", sy.a, sy.url(cert="/nix/c.crt", key="/nix/c.key"))
    sy.ended()
    assert sy.list() == [] and not os.path.exists(sy.state)


def test_two_of_a_kind(sy):
    other = sy.dir + "/other"
    for d in ("in", "x"):
        os.makedirs(f"{sy.a}/{d}")
    os.mkdir(other)
    sy.create("--name", "one", "--ignore", "*.o")
    message = sy.fails("create", sy.a, sy.url())
    assert "already" in message and "tsctl sync terminate one" in message
    assert "already" in sy.fails("create", "--name", "one", "--ignore", "*.o", "--mode", "one-way-safe", sy.a, sy.url())
    assert "another sync one" in sy.fails("create", "--name", "one", other, sy.url(sy.dir + "/b2"))
    assert "in the other" in sy.fails("create", sy.a + "/in", sy.url(sy.b + "/in"))
    assert "in the other" in sy.fails("create", sy.dir, sy.url(sy.b))
    assert len(sy.list()) == 1
    sy.create("--name", "two", a=other, b=sy.dir + "/b2")
    assert [s["name"] for s in sy.list()] == ["one", "two"]
    assert sy("flush", "--all") == "one\ntwo\n"
    assert sy("terminate", "two", "one") == "two\none\n"


def test_unknown_and_missing_names(sy):
    for verb in ("pause", "resume", "reset", "terminate", "flush"):
        assert sy.fails(verb, "nix") == "Error: there is no sync nix\n"
        assert sy(verb, "--all") == ""
        assert sy.try_(verb).returncode == 2
        assert sy.try_(verb, "--all", "x").returncode == 2
    assert sy.fails("list", "nix") == "Error: there is no sync nix\n"
    assert sy.fails("monitor") == "Error: there is no sync\n"
    assert sy.fails("resolve", "nix", "p", "--keep", "local") == "Error: there is no sync nix\n"
    assert sy.fails("resolve", "nix", "p", "--keep", "mine", status=2)
    assert sy.try_("resolve", "nix", "--keep", "local").returncode == 2
    assert sy.try_("nix").returncode == 2 and sy.try_().returncode == 2
    for word in ("create", "list", "monitor", "pause", "resume", "flush", "reset", "resolve", "terminate"):
        assert f"Usage: tsctl sync {word}" in sy(word, "--help")
    assert sy.pid() == 0


def test_monitor(sy):
    write(sy.a + "/x", "x")
    sy.create("--name", "m")
    sy.alike()
    sy.is_("watching")
    # Not on a terminal: a line whenever something else is so.
    p = subprocess.Popen(sy.argv("monitor"), env=sy.env, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert p.stdout.readline() == "m: watching\n"
    sy("pause", "m")
    assert p.stdout.readline() == "m: paused\n"
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 0
    # On one: one line, which is written over.
    t = Pty(sy.argv("monitor", "m"), sy.env)
    t.expect("\r\x1b[Km: paused")
    write(sy.a + "/big", os.urandom(1 << 20) * 20)
    sy("resume", "m")
    t.expect("m: watching")
    sy("terminate", "m")
    assert t.wait() == 0
    t.close()


def test_the_guests_policy(lab, sy, keep):
    """Without exec only below the sync root, and no symlink leads out of it."""
    strict = start_guest(lab, keep, "--no-exec")
    s = Syncs(lab, strict, keep)
    try:
        write(s.a + "/x", "x")
        message = s.fails("create", s.a, s.url(s.dir + "/outside"))
        assert f"only below {keep}/root" in message
        assert "only below" in s.fails("create", s.a, s.url(keep + "/rooted"))
        assert s.list() == [] and not os.path.exists(s.dir + "/outside")
        inside = keep + "/root/in/side"
        s("create", s.a, s.url(inside))
        s.flush()
        assert read(inside + "/x") == "x"
        s("terminate", "--all")
        victim = s.dir + "/victim"
        os.mkdir(victim)
        os.symlink(victim, keep + "/root/in/link")
        message = s.fails("create", s.a, s.url(keep + "/root/in/link/deeper"))
        assert "cannot open the directory" in message
        assert os.listdir(victim) == []
    finally:
        s.end()


def test_a_refusal_is_a_state(lab, sy, keep):
    """The policy changes while a sync is there: it says so, and goes on when it may again."""
    write(sy.a + "/x", "x")
    sy.create("--name", "r")
    sy.alike()
    port = sy.guest.port
    sy.guest.stop()
    sy.guest = start_guest(lab, keep, "--no-exec", port=port)
    one = sy.is_("failed")
    assert "only below" in one["why"]
    assert "  failed: " in sy("list") and "only below" in sy.fails("flush", "r")
    sy.guest.stop()
    sy.guest = start_guest(lab, keep, port=port)
    sy.is_("watching", timeout=60)
    write(sy.a + "/y", "y")
    sy.alike()


def test_what_the_far_worker_refuses_is_a_state(lab, sy, keep):
    """It stays so, with the reason, while it is tried again; and a late word of a worker changes nothing."""
    sy.guest.stop()
    sy.guest = start_guest(lab, keep, "--no-exec", port=sy.guest.port)
    side = keep + "/root/side"
    write(sy.a + "/x", "x")
    sy.create("--name", "r", b=side + "/deep")
    sy("pause", "r")
    os.mkdir(sy.dir + "/victim")
    os.rename(side, side + ".away")
    os.symlink(sy.dir + "/victim", side)
    tries = sy.guest.text().count(" sync-open ")
    sy("resume", "r")
    sy.is_("failed")

    def tried_again():
        one = sy.one()
        assert one["state"] == "failed" and "cannot open the directory" in one["why"], one
        return sy.guest.text().count(" sync-open ") >= tries + 3
    wait_for(tried_again, 60)
    assert "cannot open the directory" in sy.fails("flush", "r") and os.listdir(sy.dir + "/victim") == []
    os.unlink(side)
    os.rename(side + ".away", side)
    sy.is_("watching", timeout=60)


def test_a_root_that_cannot_be_made(sy):
    write(sy.dir + "/file", "no directory")
    message = sy.fails("create", sy.a, sy.url(sy.dir + "/file/below"))
    assert "/file/below" in message and "directory" in message
    assert sy.list() == []


def test_many_at_once(sy):
    for i in range(20):
        write(f"{sy.dir}/many/{i}/x", str(i))
        sy.create("--name", f"n{i}", a=f"{sy.dir}/many/{i}", b=f"{sy.b}/{i}")
    sy.flush()
    assert all(read(f"{sy.b}/{i}/x") == str(i) for i in range(20))
    assert len(sy("list").splitlines()) == 21
    sy.kill()
    write(f"{sy.dir}/many/7/y", "y")
    sy.flush()
    assert read(f"{sy.b}/7/y") == "y"
    assert len(sy("terminate", "--all").splitlines()) == 20
    sy.ended()


def pings(port, n):
    """Round trips through an echo service, in ms."""
    found = []
    with socket.create_connection(("127.0.0.1", port), 10) as c:
        c.settimeout(30)
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with c.makefile("rb") as f:
            f.readline()  # its name
            for _ in range(n):
                start = time.perf_counter()
                c.sendall(b"p")
                f.read(1)
                found.append((time.perf_counter() - start) * 1000)
                time.sleep(0.002)
    return found


def test_forwards_do_not_wait_for_a_sync(lab, services, sy):
    """100,000 files are scanned, hashed and sent by the same daemon, in the same tunnel."""
    files = 20_000 if not os.environ.get("TSLAB_FULL") else 100_000
    for d in range(100):
        os.makedirs(f"{sy.a}/{d}")
        for i in range(files // 100):
            with open(f"{sy.a}/{d}/{i}", "w") as f:
                f.write(f"{d} {i}\n")
    out = run(BIN + "/tsctl", "forward", "create", "tcp:127.0.0.1:0",
              url(lab, f"tcp:127.0.0.1:{services.echo}", guest=sy.guest), env=sy.env).stdout
    port = int(re.search(r":(\d+) -> ", out)[1])
    quiet = statistics.median(pings(port, 300))
    sy.create("--name", "many")
    busy = []
    while sy.one()["state"] != "watching":
        busy += pings(port, 100)
    sy.flush()
    busy_median = statistics.median(busy) if busy else quiet
    print(f"{files} files: ping-pong {quiet:.3f} ms quiet, {busy_median:.3f} ms meanwhile, "
          f"worst {max(busy, default=0):.1f}, {len(busy)} of them")
    # The workers take processor time, which is not ours to give on two cores; a reactor that waits
    # for a disk, or a stream that waits for a bulk, costs tens of milliseconds.
    assert busy_median < 2 * quiet + 2
    run(BIN + "/tsctl", "forward", "terminate", "--all", env=sy.env)
