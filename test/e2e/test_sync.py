"""tsctl sync: files that are kept alike, what stops that, and how it goes on."""
import os
import shutil
import signal

import pytest
from lab import REMOTE, run, wait_for
from syncs import keep, read, start_guest, sy, tree, write  # noqa: F401

pytestmark = pytest.mark.tunnel


def fill(top, n=20):
    for i in range(n):
        write(f"{top}/d{i % 4}/f{i}", f"file {i}\n" * (i + 1), 0o600 + i % 2 * 0o55)
    os.makedirs(top + "/empty")
    os.symlink("d0/f0", top + "/link")


def test_first_sync_and_edits_both_ways(sy):
    fill(sy.a)
    sy.create()
    assert len(sy.alike()) == 20 + 4 + 1 + 1
    for top in (sy.a, sy.b):
        me = os.path.basename(top)
        write(f"{top}/new-{me}/deep/er/x", me * 1000)
        with open(f"{top}/d0/f0", "a") as f:
            f.write(f"appended by {me}\n")
        sy.flush()
        os.rename(f"{top}/d1/f1", f"{top}/d1/renamed-{me}")
        os.rename(f"{top}/d1/renamed-{me}", f"{top}/d1/f1")
        os.rename(f"{top}/d2/f2", f"{top}/moved-{me}")
        write(f"{top}/d2/f2", "another")
        os.chmod(f"{top}/d3/f3", 0o755 if me == "a" else 0o700)
        os.utime(f"{top}/d3/f7", (1e9, 1e9 + 1))
        shutil.rmtree(f"{top}/new-{me}/deep/er")
        os.symlink("nowhere", f"{top}/dangling-{me}")
        sy.alike()
    there = sy.alike()
    assert "moved-a" in there and "moved-b" in there and "new-a/deep" in there and "new-a/deep/er" not in there
    assert read(sy.b + "/d0/f0").count("appended") == 2
    shutil.rmtree(sy.b + "/d3")
    sy.alike()
    assert not os.path.exists(sy.a + "/d3")
    assert sy.one()["conflicts_total"] == 0


def test_an_edit_arrives_by_itself(sy):
    write(sy.a + "/x", "1")
    sy.create()
    wait_for(lambda: os.path.exists(sy.b + "/x"), what="the file there")
    sy.is_("watching")
    for i in range(10):
        top, other = (sy.a, sy.b) if i % 2 else (sy.b, sy.a)
        write(top + "/x", f"edit {i}")
        wait_for(lambda: read(other + "/x") == f"edit {i}", what="the edit on the other side")


def test_names_are_bytes(sy):
    names = ["with space", "per%cent", "uml\u00e4ut", b"\xff\xfe", "-dash", "'quote'", "new\nline"]
    for n in names:
        with open(os.path.join(os.fsencode(sy.a), os.fsencode(n)), "w") as f:
            f.write("x")
    sy.create()
    sy.alike()
    assert set(os.listdir(os.fsencode(sy.b))) >= {os.fsencode(n) for n in names}


def test_roots_that_are_no_utf8(sy):
    a, b = os.fsencode(sy.dir) + b"/\xe4%41", sy.dir + "/there"
    os.mkdir(a)
    with open(a + b"/f", "w") as f:
        f.write("x")
    sy("create", os.fsdecode(a), sy.url(b + "%FF"))
    sy.flush()
    assert os.listdir(os.fsencode(b) + b"\xff") == [b"f"]


def test_a_large_file(sy):
    data = os.urandom(5 << 20)
    write(sy.a + "/big", data)
    sy.create()
    sy.alike()
    write(sy.b + "/big", data[:1 << 20] + b"inserted" + data[1 << 20:])
    before = sy.one()
    sy.alike()
    assert read_bytes(sy.a + "/big")[1 << 20:][:8] == b"inserted"
    after = sy.is_("watching")
    assert after["received"] - before["received"] < 1 << 20  # a delta


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def test_ignored_paths(sy):
    write(sy.a + "/.tsignore", "*.log\n!keep.log\n/build\n")
    for name in ("a.log", "keep.log", "build/x", "sub/build/x", "node_modules/m/x", ".git/HEAD", "src/x.c"):
        write(f"{sy.a}/{name}", name)
    sy.create("--ignore", "node_modules", "--ignore-vcs", "--ignore", "*.tmp")
    sy.flush()
    write(sy.b + "/there.tmp")
    write(sy.b + "/build/there")
    sy.flush()
    assert {p for p, v in tree(sy.b).items() if v[0] == "file"} == {
        ".tsignore", "keep.log", "sub/build/x", "src/x.c", "there.tmp", "build/there"}
    assert not os.path.exists(sy.a + "/there.tmp") and not os.path.exists(sy.a + "/build/there")


@pytest.mark.parametrize("mode", ["two-way-safe", "two-way-resolved", "one-way-safe", "one-way-replica"])
def test_modes(sy, mode):
    write(sy.a + "/x", "a")
    write(sy.a + "/both", "a")
    sy.create("--mode", mode)
    sy.alike()
    assert sy.one()["mode"] == mode
    write(sy.b + "/there", "b")
    sy.flush()
    both_ways = mode.startswith("two-way")
    assert os.path.exists(sy.a + "/there") == both_ways
    assert os.path.exists(sy.b + "/there") == (mode != "one-way-replica")
    sy("pause", "--all")
    write(sy.a + "/both", "from a")
    write(sy.b + "/both", "from bb")
    sy("resume", "--all")
    sy.flush()
    if mode.endswith("-safe"):
        assert sy.is_("watching")["conflicts_total"] == 1
        assert (read(sy.a + "/both"), read(sy.b + "/both")) == ("from a", "from bb")
    else:
        assert (read(sy.a + "/both"), read(sy.b + "/both")) == ("from a", "from a")


def make_conflict(sy, path="x y"):
    write(f"{sy.a}/{path}", "base")
    sy.create("--name", "c")
    sy.flush()
    sy("pause", "c")
    write(f"{sy.a}/{path}", "ours")
    write(f"{sy.b}/{path}", "theirs")
    sy("resume", "c")
    sy.flush()
    return wait_for(lambda: sy.one()["conflicts"], what="the conflict")[0]


@pytest.mark.parametrize("keep_which", ["local", "remote", "both"])
def test_a_conflict_is_listed_and_resolved(sy, keep_which):
    c = make_conflict(sy)
    assert c["path"] == "x y" and c["alpha"]["size"] == 4 and c["beta"]["size"] == 6
    assert c["alpha"]["kind"] == c["beta"]["kind"] == "file"
    text = sy("list")
    assert "1 conflict" in text
    line = [t for t in text.splitlines() if t.startswith("  conflict: ")][0]
    assert "x y: " in line and "local 4 B" in line and "remote 6 B" in line
    hint = line.split("; ")[-1]
    assert hint == "tsctl sync resolve c 'x y' --keep local|remote|both"
    # Other paths go on, and the two stay as they are.
    write(sy.a + "/other")
    sy.flush()
    assert os.path.exists(sy.b + "/other") and read(sy.b + "/x y") == "theirs"
    assert sy("resolve", "c", "x y", "--keep", keep_which) == "c\n"
    wait_for(lambda: sy.one()["conflicts_total"] == 0, what="no conflict")
    there = sy.alike()
    if keep_which == "both":
        contents = sorted(v[3] for p, v in there.items() if v[0] == "file" and p != "other")
        assert contents == [b"ours", b"theirs"] and read(sy.a + "/x y") == "ours"
    else:
        assert read(sy.a + "/x y") == {"local": "ours", "remote": "theirs"}[keep_which]
    assert sy.fails("resolve", "c", "x y", "--keep", "local").startswith("Error: c: ")


def tamper(sy, top, how):
    """At once: a pause of 30 ms between two deletions makes each one count by itself."""
    workers = sum(sy.workers(), [])
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        if how == "emptied":
            run("find", top, "-mindepth", "1", "-delete")
            return
        shutil.rmtree(top)
        if how == "a file":
            write(top, "no directory")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("how", ["removed", "emptied", "a file"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_lost_root_halts(sy, side, how):
    for name in ("x", "y", "d/z"):
        write(f"{sy.a}/{name}", name)
    sy.create("--name", "h")
    full = sy.alike()
    top, other = (sy.a, sy.b) if side == "a" else (sy.b, sy.a)
    tamper(sy, top, how)
    one = sy.is_("halted")
    if how != "emptied":  # it is emptied first, and gone a moment later
        wait_for(lambda: "gone, and" not in sy.one()["why"], what="the reason that counts")
    assert one["why"] and tree(other) == full
    text = sy("list")
    assert "halted: " in text and "tsctl sync resume h" in text
    assert sy.one()["why"] in sy.fails("flush", "h")
    assert tree(other) == full
    if how == "a file":
        os.unlink(top)
    if how != "emptied" and side == "a":
        sy("resume", "h")  # there is nothing to go on with
        sy.is_("failed")
        os.mkdir(top)
    sy("resume", "h")
    sy.is_("watching")
    if how == "emptied":  # now it counts
        wait_for(lambda: tree(other) == {}, what="removed there, too")
    else:
        assert tree(other).keys() == full.keys()


def test_a_halted_sync_can_be_reset(sy):
    write(sy.a + "/x", "x")
    write(sy.a + "/y", "y")
    sy.create()
    sy.alike()
    tamper(sy, sy.b, "emptied")
    sy.is_("halted")
    sy("reset", "--all")
    sy.is_("watching")
    assert set(sy.alike()) == {"x", "y"}


def test_reset_merges(sy):
    for name in ("x", "y", "z"):
        write(f"{sy.a}/{name}", name)
    sy.create()
    sy.alike()
    sy("pause", "--all")
    os.unlink(sy.a + "/x")
    os.unlink(sy.b + "/y")
    sy("reset", "--all")
    sy("resume", "--all")
    assert set(sy.alike()) == {"x", "y", "z"}


def test_a_wiped_remote_deletes_nothing_here(sy):
    fill(sy.a)
    sy.create()
    full = sy.alike()
    port = sy.guest.port
    sy.guest.kill()
    shutil.rmtree(sy.b)
    shutil.rmtree(sy.keep + "/state")
    sy.guest = start_guest(sy.lab, sy.keep, port=port)
    wait_for(lambda: os.path.exists(sy.b + "/link"), what="the sync goes on")
    sy.flush()
    assert tree(sy.a) == full
    assert tree(sy.b).keys() == full.keys()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_guest_is_started_again(sy, how):
    fill(sy.a)
    sy.create()
    sy.alike()
    port = sy.guest.port
    sy.guest.stop() if how == signal.SIGTERM else sy.guest.kill()
    one = sy.is_("connecting")
    assert one["why"]
    write(sy.a + "/meanwhile", "a")
    write(sy.b + "/there", "b")
    os.unlink(sy.a + "/d0/f0")
    os.unlink(sy.b + "/d1/f1")
    sy.guest = start_guest(sy.lab, sy.keep, port=port)
    there = sy.alike()
    assert "meanwhile" in there and "there" in there and "d0/f0" not in there and "d1/f1" not in there


def test_the_daemon_is_killed(sy):
    fill(sy.a)
    id = sy.create("--name", "k")
    sy.alike()
    sy.kill()
    write(sy.a + "/meanwhile", "a")
    os.unlink(sy.b + "/d0/f0")
    assert sy.list()[0]["id"].startswith(id)  # which starts it
    there = sy.alike()
    assert "meanwhile" in there and "d0/f0" not in there
    sy("pause", "k")
    sy.kill()
    assert sy.one()["state"] == "paused"
    write(sy.a + "/later", "a")
    sy("resume", "k")
    assert "later" in sy.alike()


@pytest.mark.parametrize("side", [0, 1])
def test_a_worker_is_killed(sy, side):
    fill(sy.a)
    sy.create()
    sy.alike()
    for i in range(3):
        victims = wait_for(lambda: sy.workers()[side], what="a worker")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        write(f"{sy.a}/round{i}", "a")
        write(f"{sy.b}/there{i}", "b")
        there = sy.alike()
        assert f"round{i}" in there and f"there{i}" in there


def test_the_tunnel_is_cut(sy):
    fill(sy.a)
    sy.create()
    sy.alike()
    rule = ["OUTPUT", "-p", "tcp", "-d", REMOTE, "--dport", str(sy.guest.port)]
    run("iptables", "-A", *rule, "-j", "REJECT", "--reject-with", "tcp-reset")
    try:
        write(sy.a + "/meanwhile", "a")
        sy.is_("connecting")
        assert "in time" in sy.fails("flush", "--all", "--timeout", "500ms")
        write(sy.b + "/there", "b")
    finally:
        run("iptables", "-D", *rule, "-j", "REJECT", "--reject-with", "tcp-reset")
    there = sy.alike()
    assert "meanwhile" in there and "there" in there


def test_an_old_worker_that_was_not_noticed(sy):
    """The network goes silent: the guest still has the old tunnel when the new one comes."""
    write(sy.a + "/x", "x")
    sy.create()
    sy.alike()
    rule = ["INPUT", "-p", "tcp", "-s", REMOTE, "--sport", str(sy.guest.port)]
    run("iptables", "-A", *rule, "-j", "DROP")
    try:
        sy.is_("connecting", timeout=60)
    finally:
        run("iptables", "-D", *rule, "-j", "DROP")
    write(sy.a + "/y", "y")
    assert "y" in sy.alike()
    wait_for(lambda: len(sy.workers()[1]) == 1, what="one worker there")


def test_one_file(sy):
    write(sy.a + "/conf", "1")
    write(sy.a + "/other", "no")
    sy("create", sy.a + "/conf", sy.url(sy.b + "/conf"))
    sy.flush()
    assert os.listdir(sy.b) == ["conf"]
    write(sy.b + "/conf", "2 there")
    sy.flush()
    assert read(sy.a + "/conf") == "2 there"
    write(sy.b + "/more", "x")
    sy.flush()
    assert sorted(os.listdir(sy.a)) == ["conf", "other"]
    assert "same name" in sy.fails("create", sy.a + "/other", sy.url(sy.b + "/another"), status=2)


def test_a_restart_reads_no_file_twice(sy):
    """What was changed at the very moment it was looked at is read once more, and then known."""
    write(sy.a + "/large", "x" * (8 << 20))
    sy.create()
    sy.flush()
    with open(sy.a + "/large", "r+b") as f:
        f.write(b"edit")
    sy.alike()

    def restart():
        before = sum(sy.workers(), [])
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(now := sum(sy.workers(), [])) == 2 and not set(now) & set(before), 10, "other workers")
        sy.is_("watching")
        sy.flush()
        read = []
        for pid in sum(sy.workers(), []):
            with open(f"/proc/{pid}/io") as f:
                read.append(int(f.readline().split()[1]))  # rchar: what it has read of anything
        return read
    restart()
    assert max(restart()) < 4 << 20
