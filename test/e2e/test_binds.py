"""Bind mounts of a remote engine behave as if they were local: the files are there when a container starts,
and what it wrote is here when it ends."""
import contextlib
import hashlib
import json
import os
import shutil
import socket

import pytest
from lab import BIN, Docker, run, wait_for

pytestmark = pytest.mark.tunnel

PREFIX = "/var/lib/tstunnel/sync/"


@pytest.fixture
def src(lab):
    """A directory on the laptop."""
    path = lab.path("binds/" + lab.name())
    os.makedirs(path)
    return path


@pytest.fixture
def direct(lab):
    """A client on the remote host itself."""
    return Docker(lab, host="unix://" + lab.engine_socket)


def put(path, text, mode="w"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode) as f:
        f.write(text)


def get(path):
    with open(path) as f:
        return f.read()


def syncs(lab, source=None, tsctl=None):
    """What tsctl status says of the syncs."""
    port = (tsctl or lab.tsctl).port
    out = run(BIN + "/tsctl", "status", "--json", "--listen", f"127.0.0.1:{port}", env=lab.env).stdout
    return [s for s in json.loads(out)[0]["syncs"] if source in (None, s["local"])]


def fails(docker, *args):
    r = docker(*args, check=False)
    assert r.returncode != 0, r.stdout
    return r.stderr


def sees(docker, name, path, text):
    wait_for(lambda: docker("exec", name, "cat", path, check=False).stdout == text, 15, f"{text!r} in {path}")


def test_files_are_there_and_come_back(docker, src):
    """The first process finds them; when run returns, what it wrote is here: 50 MB."""
    for i in range(3000):
        put(f"{src}/in/d{i % 7}/f{i}", f"{i}\n")
    out = docker.out("run", "--rm", "-v", f"{src}:/app", "bb", "sh", "-c",
                     "cat /app/in/d*/f* | sort -n | sha256sum; dd if=/dev/urandom of=/app/out bs=1M count=50 2>/dev/null; "
                     "sha256sum < /app/out; mkdir /app/new; echo x > /app/new/y; rm /app/in/d0/f0")
    first, second = (line.split()[0] for line in out.splitlines())
    assert first == hashlib.sha256("".join(f"{i}\n" for i in range(3000)).encode()).hexdigest()
    with open(src + "/out", "rb") as f:
        assert hashlib.sha256(f.read()).hexdigest() == second
    assert get(src + "/new/y") == "x\n"
    assert not os.path.exists(src + "/in/d0/f0")


def test_start_attached_and_wait(docker, src):
    name = docker.lab.name()
    docker("create", "--name", name, "-v", f"{src}:/app", "bb", "sh", "-c", "cat /app/in; date +%s%N > /app/out; cp /app/in /app/copy")
    for text in "one", "two":
        put(src + "/in", text)
        with contextlib.suppress(FileNotFoundError):
            os.remove(src + "/copy")
        assert docker.out("start", "-a", name) == text
        assert get(src + "/copy") == text
    os.remove(src + "/copy")
    put(src + "/in", "three")
    docker("start", name)
    assert docker.out("wait", name) == "0"
    assert get(src + "/copy") == "three"


def test_container_that_runs_as_the_local_user(docker1, src):
    """What is made on the guest belongs to who owns the directory here, as it would with a local engine."""
    put(src + "/dir/in", "in")
    for path in src, src + "/dir", src + "/dir/in":
        os.chown(path, 1234, 1234)
    docker1("run", "--rm", "--user", "1234:1234", "-v", f"{src}:/app", "bb", "sh", "-ec",
            "echo more >> /app/dir/in; echo new > /app/dir/out; mkdir /app/made")
    assert get(src + "/dir/in") == "inmore\n"
    assert get(src + "/dir/out") == "new\n"
    assert os.path.isdir(src + "/made")


def test_exec(docker, src):
    """What was edited before an exec is seen by it; what it wrote is here when it returns."""
    name = docker.sleeper("-v", f"{src}:/app")
    for i in range(5):
        put(src + "/in", f"{i}\n")
        assert docker.out("exec", name, "sh", "-c", f"cat /app/in; echo {i} > /app/out") == str(i)
        assert get(src + "/out") == f"{i}\n"
    docker("exec", "-d", name, "sh", "-c", "echo later > /app/later")
    wait_for(lambda: os.path.exists(src + "/later"), 10, "what a detached exec wrote")


def test_emptied(docker1, src):
    """A container may empty its directory, and so may we, between two runs."""
    for i in range(3):
        put(f"{src}/old{i}", "x")
    docker1("run", "--rm", "-v", f"{src}:/app", "bb", "sh", "-c", "rm -rf /app/*; sleep 0.3; echo 1 > /app/a; echo 2 > /app/b")
    assert sorted(os.listdir(src)) == ["a", "b"]
    for name in os.listdir(src):
        os.remove(f"{src}/{name}")
    assert docker1.out("run", "--rm", "-v", f"{src}:/app", "bb", "ls", "/app") == ""
    assert os.listdir(src) == []


def test_stop_and_rm(docker1, src):
    for i, end in enumerate((("stop",), ("kill", "-s", "TERM"), ("rm", "-f"))):
        name = docker1.lab.name()
        docker1("run", "-d", "--name", name, "-v", f"{src}:/app", "bb", "sh", "-c",
                f"echo up > /app/up{i}; trap 'dd if=/dev/zero of=/app/end{i} bs=1M count=8; exit' TERM; while :; do sleep 0.1; done")
        wait_for(lambda: os.path.exists(f"{src}/up{i}"), 10, "the container's first file")
        if end[0] == "rm":
            docker1("exec", name, "sh", "-c", f"dd if=/dev/zero of=/app/end{i} bs=1M count=8")
        docker1(*end, name)
        if end[0] == "kill":
            docker1("wait", name)
        assert os.path.getsize(f"{src}/end{i}") == 8 << 20


def test_logs_end(docker1, src):
    name = docker1.lab.name()
    docker1("run", "-d", "--name", name, "-v", f"{src}:/app", "bb", "sh", "-c", "echo begun; sleep 1; dd if=/dev/zero of=/app/end bs=1M count=8; echo done")
    logs = docker1("logs", "-f", name).stdout.split()
    assert logs[0] == "begun" and logs[-1] == "done"
    assert os.path.getsize(src + "/end") == 8 << 20


def test_edits_pass_both_ways_while_it_runs(docker1, src):
    put(src + "/a/b", "1")
    name = docker1.sleeper("-v", f"{src}:/app")
    put(src + "/a/b", "2")
    sees(docker1, name, "/app/a/b", "2")
    docker1("exec", "-d", name, "sh", "-c", "echo 3 > /app/a/c")
    wait_for(lambda: os.path.exists(src + "/a/c"), 10, "the other way")


@pytest.mark.parametrize("how", ["-v", "--mount"])
def test_read_only(docker1, src, how):
    put(src + "/f", "1")
    flags = ["-v", f"{src}:/app:ro"] if how == "-v" else ["--mount", f"type=bind,source={src},target=/app,readonly"]
    name = docker1.sleeper(*flags)
    assert "ead-only" in fails(docker1, "exec", name, "touch", "/app/x")
    put(src + "/f", "2")
    sees(docker1, name, "/app/f", "2")
    [s] = syncs(docker1.lab, src)
    assert s["mode"] == "one-way-replica"
    # and one that may write, beside it
    assert docker1.out("run", "--rm", "-v", f"{src}:/app", "bb", "sh", "-c", "cat /app/f; echo 3 > /app/g") == "2"
    assert get(src + "/g") == "3\n"
    sees(docker1, name, "/app/g", "3\n")


def test_single_file_keeps_its_inode(docker1, src):
    """An editor that replaces the file: the running container sees it, in the file that it has mounted."""
    put(src + "/f.conf", "one\n")
    name = docker1.sleeper("-v", f"{src}/f.conf:/etc/f.conf")
    before = docker1.out("exec", name, "stat", "-c", "%i", "/etc/f.conf")
    put(src + "/f.conf.new", "two\n")
    os.rename(src + "/f.conf.new", src + "/f.conf")
    sees(docker1, name, "/etc/f.conf", "two\n")
    assert docker1.out("exec", name, "stat", "-c", "%i", "/etc/f.conf") == before
    docker1("exec", name, "sh", "-c", "echo three > /etc/f.conf")
    assert get(src + "/f.conf") == "three\n"


def test_masks(docker1, src, direct):
    """What another mount covers is left out, on both sides."""
    put(src + "/node_modules/big", "local")
    put(src + "/index.js", "x")
    name = docker1.sleeper("-v", f"{src}:/app", "-v", "/app/node_modules", "--tmpfs", "/app/tmp")
    assert docker1.out("exec", name, "ls", "/app/node_modules") == ""
    docker1("exec", name, "sh", "-c", "echo r > /app/node_modules/remote; echo t > /app/tmp/t; echo y > /app/y")
    assert get(src + "/y") == "y\n"
    assert os.listdir(src + "/node_modules") == ["big"] and not os.path.exists(src + "/tmp/t")
    [there] = [m["Source"] for m in json.loads(direct.out("inspect", name))[0]["Mounts"] if m["Type"] == "bind"]
    assert docker1.lab.remote("ls", there + "/node_modules").stdout == ""


def test_masks_of_two_containers(docker1, src):
    """Left out is what both have something else over; what one of them needs is there for it."""
    for path in "x/1", "y/z/1", "y/other", "w":
        put(f"{src}/{path}", "here")
    a = docker1.sleeper("-v", f"{src}:/app", "-v", "/app/x", "-v", "/app/y/z")
    b = docker1.sleeper("-v", f"{src}:/app", "-v", "/app/y")
    assert docker1.out("exec", b, "cat", "/app/x/1", "/app/w") == "herehere"
    assert docker1.out("exec", a, "cat", "/app/y/other") == "here"
    assert docker1.out("exec", a, "ls", "/app/x", "/app/y/z").split() == ["/app/x:", "/app/y/z:"]
    docker1("exec", b, "sh", "-c", "echo 2 > /app/x/2")
    assert get(src + "/x/2") == "2\n"


def test_nested_sources(docker1, src):
    """A directory and a file in it, each with a mount of its own."""
    put(src + "/f.conf", "1\n")
    put(src + "/sub/x", "1\n")
    name = docker1.sleeper("-v", f"{src}:/app", "-v", f"{src}/f.conf:/etc/f.conf", "-v", f"{src}/sub:/sub")
    put(src + "/f.new", "2\n")
    os.rename(src + "/f.new", src + "/f.conf")
    put(src + "/sub/x", "2\n")
    for path in "/etc/f.conf", "/app/f.conf", "/sub/x", "/app/sub/x":
        sees(docker1, name, path, "2\n")
    docker1("exec", name, "sh", "-c", "echo 3 > /app/sub/y; echo 3 > /app/z")
    assert get(src + "/sub/y") == "3\n" and get(src + "/z") == "3\n"


def test_what_is_not_synced(docker1, lab, src):
    """Sockets, /proc and the like, / and volumes are the remote host's."""
    docker1("run", "--rm", "-v", "/var/run/docker.sock:/var/run/docker.sock", "bb", "test", "-S", "/var/run/docker.sock")
    docker1("run", "--rm", "-v", "/proc/sys/kernel:/k:ro", "bb", "test", "-e", "/k/hostname")
    os.symlink("/proc/sys/kernel", src + "/link")
    docker1("run", "--rm", "-v", f"{src}/link:/k:ro", "bb", "test", "-e", "/k")
    r = docker1("run", "--rm", "-v", "/:/host:ro", "bb", "test", "-S", "/host/run/docker.sock")
    assert "never synced" in r.stderr
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(src + "/s")
        r = docker1("run", "--rm", "-v", f"{src}/s:/s", "bb", "true", check=False)
        assert "is a socket" in r.stderr
    vol = lab.name()
    docker1("run", "--rm", "-v", f"{vol}:/data", "bb", "sh", "-c", "echo stays > /data/file")
    assert docker1.out("run", "--rm", "-v", f"{vol}:/data", "bb", "cat", "/data/file") == "stays"
    docker1("volume", "rm", vol)
    assert not [s for s in syncs(lab) if not s["local"].startswith(lab.path("binds/"))]


def test_missing_source(docker, src):
    """-v makes the directory, here; --mount refuses, in Docker's words."""
    docker("run", "--rm", "-v", f"{src}/new/dir:/app", "bb", "sh", "-c", "echo x > /app/y")
    assert get(src + "/new/dir/y") == "x\n"
    assert os.stat(src + "/new").st_mode & 0o7777 == 0o755
    direct = Docker(docker.lab, docker.cli, host="unix://" + docker.lab.engine_socket)
    theirs = fails(direct, "run", "--rm", "--mount", f"type=bind,source={src}/none,target=/app", "bb", "true")
    ours = fails(docker, "run", "--rm", "--mount", f"type=bind,source={src}/none,target=/app", "bb", "true")
    assert "bind source path does not exist" in ours
    assert ours.split("See ")[0].split("docker: ")[1] == theirs.split("See ")[0].split("docker: ")[1]
    assert not os.path.exists(src + "/none")


def test_replies_show_local_paths(docker, src, direct):
    put(src + "/f", "1")
    name = docker.sleeper("-v", f"{src}/:/app", "--mount", f"type=bind,source={src}/f,target=/f")
    [c] = json.loads(docker.out("inspect", name))
    assert c["HostConfig"]["Binds"] == [src + ":/app"]
    assert c["HostConfig"]["Mounts"][0]["Source"] == src + "/f"
    assert sorted(m["Source"] for m in c["Mounts"]) == [src, src + "/f"]
    shown = docker.out("ps", "--no-trunc", "--format", "{{.Mounts}}", "--filter", "name=" + name)
    assert sorted(shown.split(",")) == [src, src + "/f"]
    [c] = json.loads(direct.out("inspect", name))
    assert all(m["Source"].startswith(PREFIX) for m in c["Mounts"])


def test_two_containers_share_a_sync(docker1, src, lab):
    a, b = docker1.sleeper("-v", f"{src}:/a"), docker1.sleeper("-v", f"{src}:/b")
    docker1("exec", a, "sh", "-c", "echo 1 > /a/x")
    assert docker1.out("exec", b, "cat", "/b/x") == "1"
    [s] = syncs(lab, src)
    assert sorted(s["containers"]) == sorted([a, b]) and s["kind"] == "bind"
    text = run(BIN + "/tsctl", "status", env=lab.env).stdout
    assert src in text and a in text
    docker1("rm", "-f", a)
    docker1("exec", b, "sh", "-c", "echo 2 > /b/x")
    assert get(src + "/x") == "2\n"
    docker1("rm", "-f", b)
    wait_for(lambda: not syncs(lab, src), 30, "the sync ends with its containers")


def test_tsctl_guest_and_tunnel_restart(docker1, src, lab):
    """Running containers keep their files alike."""
    name = docker1.sleeper("-v", f"{src}:/app", "-v", f"{src}/f:/f")
    for i, which in enumerate(("tsctl", "guest")):
        getattr(lab, which).kill()
        put(f"{src}/while-{which}", str(i))
        lab.ensure_tunnel()
        sees(docker1, name, f"/app/while-{which}", str(i))
        put(src + "/after", str(i))
        sees(docker1, name, "/app/after", str(i))
        docker1("exec", name, "sh", "-c", f"echo {i} > /app/back")
        assert get(src + "/back") == f"{i}\n"
    [c] = json.loads(docker1.out("inspect", name))
    assert src + ":/app" in c["HostConfig"]["Binds"]


def test_tsctl_ends_at_once(docker1, src, lab):
    """A sync is no connection that has to finish."""
    name = docker1.sleeper("-v", f"{src}:/app")
    assert syncs(lab, src)
    assert lab.tsctl.stop(8) == 0
    lab.ensure_tunnel()
    put(src + "/x", "1")
    sees(docker1, name, "/app/x", "1")


def test_started_by_another_client(docker1, src, direct):
    name = docker1.lab.name()
    put(src + "/x", "1")
    docker1("create", "--name", name, "-v", f"{src}:/app", "bb", "sleep", "1000")
    direct("start", name)
    put(src + "/x", "2")
    sees(docker1, name, "/app/x", "2")
    direct("rm", "-f", name)
    wait_for(lambda: not syncs(docker1.lab, src), 30, "the sync ends")


def test_wiped_remote_deletes_nothing_here(docker1, src, direct, lab):
    put(src + "/keep/me", "1")
    docker1("run", "--rm", "-v", f"{src}:/app", "bb", "true")
    wait_for(lambda: not syncs(lab, src), 30, "the sync ends")
    for d in os.listdir(lab.path("guest-state")):
        shutil.rmtree(lab.path("guest-state/" + d))
    assert docker1.out("run", "--rm", "-v", f"{src}:/app", "bb", "cat", "/app/keep/me") == "1"
    assert get(src + "/keep/me") == "1"


def test_failed_sync_fails_the_start(docker1, src, lab):
    """With its reason, and run --rm leaves nothing behind."""
    put(src + "/x", "1")
    name = lab.name()
    docker1("create", "--name", name, "-v", f"{src}:/app", "bb", "true")
    shutil.rmtree(src)
    err = fails(docker1, "start", name)
    assert src in err and "does not exist" in err
    guest = lab.start_guest("--sync-root", "/proc/nowhere")
    tsctl = lab.start_tsctl(guest)
    other = Docker(lab, host=tsctl.url)
    os.makedirs(src)
    err = fails(other, "run", "--rm", "-v", f"{src}:/app", "bb", "true")
    assert src in err and "/proc/nowhere" in err, err


def test_no_fence(docker1, src, lab):
    """By flag, and by label: what is there comes a little later."""
    tsctl = lab.start_tsctl(lab.guest, "--no-fence", "--sync-owner", "nofence")
    d = Docker(lab, host=tsctl.url)
    for client, flags in ((d, []), (docker1, ["--label", "tstunnel.fence=off"])):
        name = client.sleeper("-v", f"{src}:/app", *flags)
        put(src + "/x", name)
        sees(client, name, "/app/x", name)
        client("exec", name, "sh", "-c", f"echo {name} > /app/y")
        wait_for(lambda: os.path.exists(src + "/y") and get(src + "/y") == name + "\n", 15, "what it wrote")
        client("rm", "-f", name)
    assert os.path.isdir(lab.path("guest-state/sync/nofence" + src))


def test_no_sync(lab, src, direct):
    """Sources are the remote host's paths, as with a plain engine."""
    tsctl = lab.start_tsctl(lab.guest, "--no-sync")
    d = Docker(lab, host=tsctl.url)
    name = d.sleeper("-v", f"{src}:/app")
    assert json.loads(direct.out("inspect", name))[0]["Mounts"][0]["Source"] == src
    assert syncs(lab, tsctl=tsctl) == []


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose")
def test_compose(docker1, src):
    put(src + "/docker-compose.yml", """
version: "3"
services:
  web:
    image: bb
    command: sleep 1000
    volumes: ["./app:/app", "/app/node_modules", "./f.conf:/etc/f.conf:ro"]
""")
    put(src + "/app/index", "1")
    put(src + "/app/node_modules/x", "1")
    put(src + "/f.conf", "conf")

    def compose(*args):
        run("docker-compose", "-p", "binds", *args, cwd=src, env=docker1.env, timeout=120)
    compose("up", "-d")
    try:
        name = docker1.out("ps", "-q", "--filter", "label=com.docker.compose.project=binds")
        assert docker1.out("exec", name, "cat", "/app/index", "/etc/f.conf") == "1conf"
        docker1("exec", name, "sh", "-c", "echo 2 > /app/index; echo 3 > /app/node_modules/x")
        assert get(src + "/app/index") == "2\n" and get(src + "/app/node_modules/x") == "1"
        compose("up", "-d")
        assert docker1.out("ps", "-q", "--filter", "label=com.docker.compose.project=binds") == name, "nothing has changed"
    finally:
        compose("down", "-v", "-t", "0")


def test_build_is_unaffected(docker1, src, lab):
    put(src + "/Dockerfile", "FROM bb\nCOPY f /f\nRUN cat /f > /g\n")
    put(src + "/f", "built")
    docker1("build", "-q", "-t", lab.name(), src, env={"DOCKER_BUILDKIT": "0"})
    assert docker1.out("run", "--rm", f"t{lab.serial}", "cat", "/g") == "built"
    assert not syncs(lab, src)
