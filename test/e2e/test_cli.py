"""What people type, through the tunnel, with every docker CLI that is there."""
import io
import json
import re
import tarfile

from lab import wait_for


def test_version(docker):
    assert re.fullmatch(r"\d+\.\d+.*", docker.out("version", "-f", "{{.Server.Version}}"))


def test_info(docker):
    assert docker.out("info", "-f", "{{.Driver}} {{.Images}}").split()[0] in ("overlay2", "vfs", "btrfs")


def test_ps(docker):
    name = docker.sleeper()
    assert name in docker.out("ps", "--format", "{{.Names}}").split()
    docker("rm", "-f", name)
    assert name not in docker.out("ps", "-a", "--format", "{{.Names}}").split()


def test_images_tag_rmi(docker):
    tag = f"other:{docker.lab.name()}"
    docker("tag", "bb", tag)
    assert tag in docker.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    docker("rmi", tag)
    assert tag not in docker.out("images", "--format", "{{.Repository}}:{{.Tag}}").split()


def test_import_from_stdin(docker):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("note")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    tag = f"imported:{docker.lab.name()}"
    docker("import", "-", tag, input=data.getvalue(), text=False)
    name = docker.lab.name()
    docker("create", "--name", name, tag, "/x")
    out = docker("cp", f"{name}:/note", "-", text=False).stdout
    assert tarfile.open(fileobj=io.BytesIO(out)).extractfile("note").read() == b"hello"
    docker("rm", name)
    docker("rmi", tag)


def test_run_output_and_status(docker):
    r = docker("run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2; exit 37", check=False)
    assert (r.returncode, r.stdout, r.stderr) == (37, "out\n", "err\n")


def test_run_of_missing_program(docker):
    r = docker("run", "--rm", "bb", "/no/such/program", check=False)
    assert r.returncode == 127


def test_unknown_image_is_the_engines_own_error(docker):
    r = docker("inspect", "no-such-thing", check=False)
    assert r.returncode == 1 and "No such object" in r.stderr


def test_exec(docker):
    name = docker.sleeper()
    assert docker.out("exec", name, "echo", "inside") == "inside"
    assert docker("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9
    assert docker("exec", "-i", name, "cat", input="typed").stdout == "typed"
    assert docker.out("exec", "-e", "A=b c", "-w", "/www", name, "sh", "-c", "echo $A $PWD") == "b c /www"


def test_logs(docker):
    name = docker.lab.name()
    docker("run", "--name", name, "bb", "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo err >&2")
    r = docker("logs", name)
    assert r.stdout == "line 1\nline 2\nline 3\n" and r.stderr == "err\n"
    assert docker.out("logs", "--tail", "1", name).splitlines()[-1:] in (["line 3"], [])


def test_logs_follow(docker):
    name = docker.lab.name()
    docker("run", "-d", "--name", name, "bb", "sh", "-c", "echo first; cat /fifo 2>/dev/null; sleep 10000")
    p = docker.popen("logs", "-f", name)
    assert p.stdout.readline() == b"first\n"
    docker("kill", name)
    assert p.wait(10) == 0


def test_events(docker):
    name = docker.lab.name()
    # --since: what happens before the engine has taken the subscription counts too.
    p = docker.popen("events", "--since", "1m", "--filter", f"container={name}", "--format", "{{json .Status}}")
    seen = []

    def started():
        docker("run", "--rm", "--name", name, "bb", "true")
        return True
    wait_for(started, 30)
    while "destroy" not in seen:
        seen.append(json.loads(p.stdout.readline()))
    p.kill()
    p.wait()
    assert [s for s in seen if s in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"]


def test_stats_top(docker):
    name = docker.sleeper()
    assert docker.out("stats", "--no-stream", "--format", "{{.Name}}", name) == name
    assert "sleep 10000" in docker.out("top", name)


def test_cp_both_ways(docker, tmp_path):
    name = docker.sleeper()
    data = bytes(range(256)) * 4096
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/data").write_bytes(data)
    (tmp_path / "tree/run.sh").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tree/run.sh").chmod(0o755)
    docker("cp", tmp_path / "tree", f"{name}:/tree")
    assert docker.out("exec", name, "/tree/run.sh") == "ran"
    docker("exec", name, "cp", "-r", "/tree", "/back")
    docker("cp", f"{name}:/back", tmp_path / "back")
    assert (tmp_path / "back/sub/data").read_bytes() == data
    r = docker("cp", f"{name}:/missing", tmp_path / "x", check=False)
    assert r.returncode != 0 and "/missing" in r.stderr


def test_commit_diff(docker):
    name = docker.sleeper()
    docker("exec", name, "sh", "-c", "echo kept > /www/new; rm /www/index.html")
    assert {"A /www/new", "D /www/index.html"} <= set(docker.out("diff", name).splitlines())
    tag = f"committed:{name}"
    docker("commit", "-m", "a change", name, tag)
    assert docker.out("run", "--rm", tag, "cat", "/www/new") == "kept"
    assert "a change" in docker.out("history", "--format", "{{.Comment}}", tag)
    docker("rmi", tag)


def test_wait_kill(docker):
    name = docker.sleeper()
    p = docker.popen("wait", name)
    docker("kill", "-s", "KILL", name)
    assert p.communicate(timeout=10)[0] == b"137\n"


def test_pause_rename_restart_update(docker):
    name = docker.sleeper()
    docker("pause", name)
    assert docker.inspect(name, "{{.State.Status}}") == "paused"
    docker("unpause", name)
    docker("rename", name, name + "-new")
    assert docker.inspect(name + "-new", "{{.State.Status}}") == "running"
    docker("restart", "-t", "0", name + "-new")
    docker("stop", "-t", "0", name + "-new")
    docker("stop", name + "-new")  # the engine says 304
    docker("start", name + "-new")
    docker("start", name + "-new")  # 304 again
    assert docker.inspect(name + "-new", "{{.State.Status}}") == "running"


def test_network(docker):
    net = "net-" + docker.lab.name()
    docker("network", "create", net)
    try:
        server = docker.lab.name()
        docker("run", "-d", "--name", server, "--network", net, "bb", "httpd", "-f", "-h", "/www")
        assert docker.out("run", "--rm", "--network", net, "bb", "sh", "-c",
                          f"for i in 1 2 3 4 5; do wget -qO- http://{server}/ && break; sleep 0.2; done") \
            == "hello from the container"
        assert net in docker.out("network", "ls", "--format", "{{.Name}}").split()
        docker("rm", "-f", server)
    finally:
        docker("network", "rm", net)


def test_volume(docker):
    vol = "vol-" + docker.lab.name()
    docker("volume", "create", "--label", "a=b", vol)
    docker("run", "--rm", "-v", f"{vol}:/data", "bb", "sh", "-c", "echo stays > /data/file")
    assert docker.out("run", "--rm", "-v", f"{vol}:/data", "bb", "cat", "/data/file") == "stays"
    assert docker.out("volume", "inspect", "-f", "{{.Labels.a}}", vol) == "b"
    docker("volume", "rm", vol)
    assert vol not in docker.out("volume", "ls", "-q").split()


def test_large_labels_and_unknown_names_pass(docker):
    """A create body of 300 KB arrives whole."""
    big = "x" * 100000
    name = docker.lab.name()
    docker("create", "--name", name, "-l", "a=" + big, "-l", "b=" + big, "-l", "c=" + big, "bb", "true")
    assert docker.inspect(name, "{{len .Config.Labels.b}}") == "100000"
