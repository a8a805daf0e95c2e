"""tsctl forward in the background: the daemon, its state, its errors."""
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time

import pytest
from daemon import Daemon
from forwards import connect, echoes, is_reset, local_services, services, url, works  # noqa: F401
from lab import BIN, REMOTE, can_connect, open_files, run, wait_for

pytestmark = pytest.mark.tunnel


class Forwards(Daemon):
    word = "forward"

    def __init__(self, lab):
        super().__init__(lab)
        self.state = self.state_dir + "/tstunnel/forwards.json"

    def create(self, src, dst, *flags, **kw):
        """The port that it listens on."""
        lines = self("create", src, dst, *flags, **kw).splitlines()
        return int(lines[0].split(" -> ")[0].rsplit(":")[-1]) if "unix:" not in lines[0].split(" -> ")[0] else 0

    def list(self):
        return {f["name"] or f["id"]: f for f in json.loads(self("list", "--json"))}

    def states(self):
        return {name: f["state"] for name, f in self.list().items()}


@pytest.fixture
def fw(lab):
    f = Forwards(lab)
    yield f
    f.end()


def target(lab, services, **params):
    return url(lab, f"tcp:127.0.0.1:{services.echo}", **params)


def test_a_forwards_life(lab, services, fw):
    dst = target(lab, services)
    assert fw("list") == fw("list") and "STATE" in fw("list")
    assert fw("list", "--json") == "[]\n"
    assert fw.pid() == 0  # no daemon for that
    out = fw("create", "--name", "web", "tcp:localhost:0", dst)
    port = int(re.fullmatch(rf"localhost:(\d+) -> tstunnel://{lab.guest.address}/tcp:127.0.0.1:{services.echo}\n",
                            out)[1])
    assert echoes(port, services.echo)
    with connect(port) as c, c.makefile("rb") as f:
        f.readline()
        c.sendall(b"x" * 1000)
        f.read(1000)
        one = fw.list()["web"]
        assert one["connections"] == 1 and one["bytes_out"] == 1005
        assert one["bytes_in"] == 1005 + 2 * len(f"{services.echo}\n")
        assert one["src"] == f"tcp:localhost:{port}" and re.fullmatch("[0-9a-f]{8}", one["id"])
        assert one["dst"] == dst.split("?")[0] and one["state"] == "active" and one["reason"] == ""
        assert fw("pause", "web") == "web\n"
        with pytest.raises(ConnectionResetError):
            f.read(1)
    assert not can_connect("127.0.0.1", port)
    one = fw.list()["web"]
    assert one["state"] == "paused" and one["bytes_out"] == 1005 and one["connections"] == 0
    assert fw("pause", "web") == "web\n"  # twice is no error
    assert fw("resume", one["id"]) == "web\n"
    assert echoes(port, services.echo)  # the same port
    table = fw("list")
    assert re.search(rf"^{one['id']}  web   active  .* tcp:localhost:{port} -> tstunnel://", table, re.M)
    assert "cert=" not in table
    assert fw("terminate", "web") == "web\n"
    assert not can_connect("127.0.0.1", port)
    fw.ended()  # by itself, with the last one
    assert not os.path.exists(fw.socket) and not os.path.exists(fw.state)
    assert fw("list", "--json") == "[]\n"
    assert [w for w in re.findall("forward-(\\w+) forward=web", fw.text())] == ["created", "paused", "paused",
                                                                                "resumed", "terminated"]


def test_state_survives_kill_9(lab, services, local_services, fw):
    dst = target(lab, services)
    port = fw.create("tcp:127.0.0.1:0", dst, "--name", "a")
    there = fw.create(url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.echo}", "--name", "back")
    fw.create("udp:127.0.0.1:0", url(lab, "udp:127.0.0.1:9"), "--name", "dgram")
    fw.create("tcp:127.0.0.1:0", dst, "--name", "sleeps")
    path = lab.path("fw.sock2")
    fw.create("unix:" + path, dst)
    fw("pause", "sleeps")
    assert stat.S_IMODE(os.stat(fw.state).st_mode) == 0o600
    text = open(fw.state).read()
    assert lab.pki.key("client") in text and "PRIVATE" not in text
    before = fw.list()
    for signo in (signal.SIGKILL, signal.SIGTERM):
        fw.kill(signo)
        assert not can_connect("127.0.0.1", port)
        assert sorted(fw.states()) == sorted(before)  # started again
        wait_for(lambda: sorted(set(fw.states().values())) == ["active", "paused"], what="they serve")
        after = fw.list()
        for name, f in before.items():
            assert {k: after[name][k] for k in ("id", "src", "dst", "state")} == \
                {k: f[k] for k in ("id", "src", "dst", "state")}
        assert echoes(port, services.echo)
        assert lab.remote("sh", "-c", f"echo x | timeout 5 busybox nc 127.0.0.1 {there} | head -n 1").stdout == \
            f"{local_services.echo}\n"
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(path)
            assert c.makefile("rb").readline() == b"%d\n" % services.echo
    assert len(fw("terminate", "--all").splitlines()) == 5
    fw.ended()
    assert fw("terminate", "--all") == ""


def test_many_creates_at_once_start_one_daemon(lab, services, fw):
    dst = target(lab, services)
    ps = [subprocess.Popen(fw.argv("create", "tcp:127.0.0.1:0", dst, "--name", f"n{i % 8}"), env=fw.env,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(16)]
    out = [p.communicate(timeout=60) for p in ps]
    assert all(p.returncode == 0 for p in ps), out
    fw.pids.add(fw.pid())
    assert sorted(fw.states().items()) == [(f"n{i}", "active") for i in range(8)]
    for i in range(8):  # two asked for each
        assert out[i][0] == out[i + 8][0]
        assert echoes(int(out[i][0].split(" -> ")[0].split(":")[1]), services.echo)
    assert fw.text().count("listening addr=") == 1
    assert lab.guest.text().count("tunnel-open") < 100


def test_ending_and_starting_at_once(lab, services, fw):
    """The daemon ends with the last forward; who asks at that very moment is served by the next one."""
    dst = target(lab, services)
    for i in range(15):
        fw.create("tcp:127.0.0.1:0", dst, "--name", f"n{i}")
        end = subprocess.Popen(fw.argv("terminate", f"n{i}"), env=fw.env, stdout=subprocess.DEVNULL)
        time.sleep(i * 0.002)
        port = fw.create("tcp:127.0.0.1:0", dst, "--name", f"m{i}")
        assert end.wait(30) == 0
        assert echoes(port, services.echo)
        fw("terminate", f"m{i}")


def test_the_daemon_holds_nothing_of_its_starter(lab, services, fw):
    with open(lab.path("lock-of-a-script"), "w") as f:
        os.set_inheritable(f.fileno(), True)
        fw.create("tcp:127.0.0.1:0", target(lab, services), close_fds=False)
        assert not [x for x in open_files(fw.pid()) if "lock-of-a-script" in x]
    stat = open(f"/proc/{fw.pid()}/stat").read().rsplit(") ")[-1].split()
    assert int(stat[3]) == fw.pid()  # a session of its own
    assert os.readlink(f"/proc/{fw.pid()}/cwd") == "/"
    for fd, where in ((0, "/dev/null"), (1, fw.log), (2, fw.log)):
        assert os.readlink(f"/proc/{fw.pid()}/fd/{fd}") == where


@pytest.mark.parametrize("last_words", [b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", b""])
def test_a_daemon_that_is_just_ending(lab, services, fw, last_words):
    """It takes the connection, and says no, or nothing at all."""
    os.makedirs(os.path.dirname(fw.socket), 0o700)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(fw.socket)
        old.listen()
        p = subprocess.Popen(fw.argv("create", "tcp:127.0.0.1:0", target(lab, services)), env=fw.env,
                             stdout=subprocess.PIPE, text=True)
        c, _ = old.accept()
        os.unlink(fw.socket)
        with c:
            c.recv(65536)
            c.sendall(last_words)
    out = p.communicate(timeout=30)[0]
    fw.pids.add(fw.pid())
    assert p.returncode == 0 and echoes(int(out.split(" -> ")[0].split(":")[1]), services.echo)


def test_names(lab, services, fw):
    dst = target(lab, services)
    here = lab.free_port()
    for _ in range(2):
        assert fw.create(f"tcp:127.0.0.1:{here}", dst, "--name", "one") == here
    fw("pause", "one")
    assert fw.create(f"tcp:127.0.0.1:{here}", dst, "--name", "one") == here  # and it serves again
    assert fw.states() == {"one": "active"}
    text = fw.fails("create", "tcp:127.0.0.1:0", dst, "--name", "one")
    assert "there is another forward one; \"tsctl forward terminate one\" ends it" in text
    text = fw.fails("create", f"tcp:127.0.0.1:{here}", dst, "--name", "two")
    assert f"cannot listen on 127.0.0.1:{here}: address already in use; the forward one has it" in text
    for verb in ("pause", "resume", "terminate"):
        assert "there is no forward nix" in fw.fails(verb, "one", "nix")
    assert fw.states() == {"one": "active"}  # all or nothing
    for bad in ("", "a b", "-x", "x" * 65, "ä"):
        assert "--name takes" in fw.fails("create", "tcp:127.0.0.1:0", dst, "--name=" + bad, status=2)
    assert fw("terminate", "one", "one") == "one\n"
    fw.ended()
    for verb in ("pause", "resume", "terminate"):
        assert "there is no forward one" in fw.fails(verb, "one")
    assert fw.pid() == 0


def test_errors_leave_nothing_behind(lab, services, local_services, fw):
    dst = target(lab, services)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = fw.fails("create", f"tcp:127.0.0.1:{taken.getsockname()[1]}", dst)
        assert text.endswith("address already in use\n")
    text = fw.fails("create", "tcp:127.0.0.1:0", f"tstunnel://{REMOTE}:{lab.free_port()}/tcp:127.0.0.1:1")
    assert "connection refused; is guest running there" in text
    text = fw.fails("create", "tcp:127.0.0.1:0", target(lab, services, ca=lab.pki.crt("other-ca")))
    assert "signed by unknown authority" in text and "with ca=FILE" in text
    text = fw.fails("create", "tcp:127.0.0.1:0", target(lab, services, ca=lab.path("no-such.crt")))
    assert "no-such.crt: no such file or directory" in text
    text = fw.fails("create", url(lab, "tcp:0.0.0.0:0"), "tcp:127.0.0.1:1")
    assert "not allowed by this guest (--allow-listen)" in text
    there = fw.create(url(lab, "tcp:127.0.0.1:0"), f"tcp:127.0.0.1:{local_services.echo}", "--name", "back")
    text = fw.fails("create", url(lab, f"tcp:127.0.0.1:{there}"), "tcp:127.0.0.1:1")
    assert f"cannot listen on 127.0.0.1:{there}: address already in use (guest" in text
    assert fw.states() == {"back": "active"}
    assert "everybody who reaches" in fw.fails("create", "tcp:0.0.0.0:0", dst, status=2)
    fw("terminate", "back")
    fw.ended()
    assert not os.path.exists(fw.state)


def test_giving_up_while_it_waits(lab, fw):
    """Ctrl-C before the guest has answered: the forward does not come to be."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        p = subprocess.Popen(fw.argv("create", "tcp:127.0.0.1:0", "--name", "never",
                                     f"tstunnel://127.0.0.1:{silent.getsockname()[1]}/tcp:127.0.0.1:1"),
                             env=fw.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: fw.pid() and fw.states() == {"never": "starting"}, what="it waits")
        fw.pids.add(fw.pid())
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=10)
        fw.ended()
    assert not os.path.exists(fw.state)


def test_guest_goes_and_comes(lab, services, fw):
    g = lab.start_guest()
    port = fw.create("tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}", g), "--name", "x")
    g.kill()
    one = wait_for(lambda: fw.states()["x"] == "error" and fw.list()["x"], what="the loss shows")
    assert f"(server {g.address})" in one["reason"] or g.address in one["reason"]
    assert g.address in fw("list")
    assert is_reset(port)
    fw.kill()
    assert fw.states()["x"] in ("starting", "error")  # it starts all the same
    lab.start_guest(port=g.port)
    wait_for(lambda: works(port), 10, "works again")
    assert fw.states() == {"x": "active"}


def test_port_taken_when_the_daemon_comes_back(lab, services, fw):
    here = lab.free_port()
    fw.create(f"tcp:127.0.0.1:{here}", target(lab, services), "--name", "fixed")
    any_ = fw.create("tcp:127.0.0.1:0", target(lab, services), "--name", "any")
    fw.kill()
    with contextlib.ExitStack() as stack:
        for port in (here, any_):
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            s.listen()
        got = fw.list()
        assert got["fixed"]["state"] == "error" and "address already in use" in got["fixed"]["reason"]
        wait_for(lambda: fw.states()["any"] == "active", what="another port does")
        other = int(fw.list()["any"]["src"].rsplit(":")[-1])
        assert other != any_ and echoes(other, services.echo)
        assert "address already in use" in fw.fails("resume", "fixed")
    wait_for(lambda: fw.states()["fixed"] == "active", 15, "tried again")
    assert echoes(here, services.echo)


def test_a_tunnel_is_shared(lab, services, fw):
    g = lab.start_guest()
    for name in "abc":
        fw.create("tcp:127.0.0.1:0", url(lab, f"tcp:127.0.0.1:{services.echo}", g), "--name", name)
    fw.create(url(lab, "tcp:127.0.0.1:0", g), f"tcp:127.0.0.1:{services.echo}", "--name", "back")
    assert g.text().count("tunnel-open") == 1
    plain = lab.ensure_plain_guest()
    fw.create("tcp:127.0.0.1:0", f"tstunnel://{plain.address}/tcp:127.0.0.1:{services.echo}", "--name", "other")
    fw("terminate", "a", "b", "back")
    assert g.text().count("tunnel-closed") == 0
    fw("pause", "c")
    wait_for(lambda: g.text().count("tunnel-closed") == 1, what="no user, no tunnel")
    assert sorted(fw.states().items()) == [("c", "paused"), ("other", "active")]


def test_relative_paths(lab, services, fw):
    here = os.path.dirname(lab.pki.crt("client"))
    names = {k: os.path.basename(v) for k, v in (("cert", lab.pki.crt("client")), ("key", lab.pki.key("client")),
                                                 ("ca", lab.pki.crt("ca")))}
    dst = target(lab, services, **names)
    r = fw.try_("create", "unix:own.sock", dst, "--name", "rel", cwd=here)
    assert r.returncode == 0, r.stderr
    assert r.stdout.startswith(f"unix://{here}/own.sock -> ")
    fw.kill()
    assert fw.list()["rel"]["src"] == f"unix://{here}/own.sock"
    wait_for(lambda: fw.states() == {"rel": "active"}, what="found again")
    assert os.path.exists(here + "/own.sock")
    fw("terminate", "rel")
    assert not os.path.exists(here + "/own.sock")


def test_leftovers(lab, services, fw):
    """A socket and a lock file of somebody who is dead."""
    os.makedirs(os.path.dirname(fw.socket), 0o700)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(fw.socket)
    with open(fw.lock, "w") as f:
        f.write("1\n")
    assert echoes(fw.create("tcp:127.0.0.1:0", target(lab, services)), services.echo)


def test_directories_that_others_can_write(lab, services, fw):
    dst = target(lab, services)
    run_dir = os.path.dirname(fw.socket)
    os.makedirs(run_dir, 0o755)
    text = fw.fails("create", "tcp:127.0.0.1:0", dst)
    assert f"{run_dir} must be a directory of yours with mode 0700" in text
    os.chmod(run_dir, 0o700)
    os.makedirs(os.path.dirname(fw.state))
    os.chmod(os.path.dirname(fw.state), 0o777)
    for args in (["create", "tcp:127.0.0.1:0", dst], ["list"], ["terminate", "--all"]):
        assert "must be a directory that is yours and that nobody else may write" in fw.fails(*args)
    os.chmod(os.path.dirname(fw.state), 0o755)
    for content, mode, words in (("{", 0o600, "damaged: "), ('{"version":1}', 0o600, "not a file of forwards"),
                                 ('{"version":2,"forwards":[]}', 0o600, "another version"),
                                 ('{"version":1,"forwards":[]}', 0o666, "nobody else may write"),
                                 ('{"version":1,"forwards":[{"id":"x"}]}', 0o600, 'malformed "id"'),
                                 ('{"version":1,"forwards":[{"id":"12345678","src":"tcp:0.0.0.0:1",'
                                  '"dst":"tstunnel://h/tcp:t:1"}]}', 0o600, "everybody who reaches")):
        with open(fw.state, "w") as f:
            f.write(content)
        os.chmod(fw.state, mode)
        text = fw.fails("list")
        assert words in text and fw.state in text
        assert open(fw.state).read() == content
    os.unlink(fw.state)
    assert "neither XDG_STATE_HOME nor HOME is set" in run(
        *fw.argv("list"), check=False, env={k: v for k, v in fw.env.items() if k not in ("HOME", "XDG_STATE_HOME")}
    ).stderr


def test_the_state_cannot_be_written(lab, services, fw):
    fw.create("tcp:127.0.0.1:0", target(lab, services), "--name", "a")
    os.mkdir(fw.state + ".new")  # stands in the way, even of root
    text = fw.fails("create", "tcp:127.0.0.1:0", target(lab, services), "--name", "b")
    assert "forwards.json: Is a directory" in text
    assert fw.states() == {"a": "active"}
    os.rmdir(fw.state + ".new")
    fw.create("tcp:127.0.0.1:0", target(lab, services), "--name", "b")
    assert sorted(fw.states()) == ["a", "b"]


def test_the_daemon_by_hand(lab, services, fw):
    """As systemd would run it."""
    port = fw.create("tcp:127.0.0.1:0", target(lab, services), "--name", "a")
    text = fw.fails("daemon")
    assert f"it runs already (pid {fw.pid()})" in text
    fw.kill()
    p = lab.program("daemon", fw.argv("daemon"), env=fw.env)
    wait_for(lambda: "listening addr=" in p.text() and works(port), what="it serves")
    assert fw.pid() == p.pid
    with connect(port) as c, c.makefile("rb") as f:
        f.readline()
        p.signal(signal.SIGHUP)
        wait_for(lambda: "reload done" in p.text(), what="reload")
        p.expect_death = True
        p.signal(signal.SIGTERM)
        wait_for(lambda: not can_connect("127.0.0.1", port), what="stops accepting")
        c.sendall(b"last")
        assert f.read(4) == b"last"
    assert p.wait(5) == 0
    p = lab.program("daemon", fw.argv("daemon"), env=fw.env)
    wait_for(lambda: "listening addr=" in p.text(), what="it serves")
    p.expect_death = True
    fw("terminate", "a")
    assert p.wait(5) == 0


def test_other_commands_leave_it_alone(lab, services, fw):
    fw.create("tcp:127.0.0.1:0", target(lab, services), "--name", "a")
    assert run(BIN + "/tsctl", "status", check=False, env=fw.env).stderr == "no tsctl is running\n"
    assert run(BIN + "/tsctl", "stop", "--all", check=False, env=fw.env).returncode == 1
    assert fw.states() == {"a": "active"}


def test_ranges(lab, services, fw):
    here, there = [lab.free_port() for _ in range(3)], services.range
    src = f"tcp:127.0.0.1:{here[0]}-{here[2]}"
    out = fw("create", src, url(lab, f"tcp:localhost:{there[0]}-{there[2]}"), "--name", "r")
    assert out.splitlines() == [f"127.0.0.1:{h} -> tstunnel://{lab.guest.address}/tcp:localhost:{t}"
                                for h, t in zip(here, there)]
    for h, t in zip(here, there):
        assert echoes(h, t)
    assert fw.list()["r"]["src"] == src and fw.list()["r"]["dst"].endswith(f"/tcp:localhost:{there[0]}-{there[2]}")


def test_command_line(lab, fw):
    for args, words in ((["nix"], 'unknown command "nix"'), ([], "a command is missing"),
                        (["list", "x"], "unexpected argument: x"), (["pause"], "say which, or --all"),
                        (["pause", "--all", "x"], "unexpected argument: x"), (["daemon", "x"], "unexpected")):
        r = fw.try_(*args)
        assert r.returncode == 2 and words in r.stderr, (args, r.stderr)
    for args in (["--help"], ["list", "--help"], ["pause", "--help"], ["resume", "--help"], ["terminate", "--help"],
                 ["daemon", "--help"], ["create", "--help"]):
        assert "Usage: tsctl " in fw(*args)
    text = fw.fails("create", "--foreground", "--name", "x", "tcp:localhost:0", "tstunnel://h/tcp:t:1", status=2)
    assert "--name is of no use with --foreground" in text
