"""Published ports follow containers: what the engine publishes is answered on the laptop."""
import contextlib
import http.client
import json
import os
import socket
import subprocess
import urllib.request

import pytest
from lab import BIN, FULL, LAPTOP, REMOTE, SAN, Docker, can_connect, run, wait_for

pytestmark = pytest.mark.tunnel


def body(port, host="127.0.0.1", timeout=3):
    """What a web server answers; None while none does."""
    host = f"[{host}]" if ":" in host else host
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://{host}:{port}/", timeout=timeout).read().decode().strip()


def answers(port, what, host="127.0.0.1"):
    wait_for(lambda: body(port, host) == what, 15, f"{what} on {host}:{port}")


def closed(port, host="127.0.0.1"):
    wait_for(lambda: not can_connect(host, port), 10, f"{host}:{port} closed")


def web(docker, *flags, name=None, cmd="exec httpd -f -p 80 -h /www", **kw):
    """A web server that answers with its name; the port that it was given need not be 80."""
    name = name or docker.lab.name()
    docker("run", "-d", "--name", name, "--stop-signal", "KILL", *flags, "bb", "sh", "-c", f"echo {name} > /www/index.html; {cmd}", **kw)
    return name


@contextlib.contextmanager
def taken(port, host="127.0.0.1"):
    """Somebody else's port on the laptop."""
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host, port))
    s.listen()
    with s:
        yield


def ports(lab, name=None):
    """What tsctl status says: of one container, or of all."""
    out = run(BIN + "/tsctl", "status", "--json", "--listen", f"127.0.0.1:{lab.tsctl.port}", env=lab.env).stdout
    return [p for p in json.loads(out)[0]["ports"] if name in (None, p["container"])]


@pytest.fixture
def direct(lab):
    """A client on the remote host itself."""
    return Docker(lab, host="unix://" + lab.engine_socket)


def test_run_start_stop(docker, lab):
    port = lab.free_port()
    name = web(docker, "-p", f"{port}:80")
    assert can_connect("127.0.0.1", port) and can_connect("::1", port), "when docker run returns"
    answers(port, name)
    answers(port, name, "::1")
    assert docker.out("port", name, "80/tcp").splitlines()[0] == f"0.0.0.0:{port}"

    docker("stop", "-t", "0", name)
    closed(port)
    docker("start", name)
    assert can_connect("127.0.0.1", port)
    answers(port, name)
    docker("restart", "-t", "0", name)
    assert can_connect("127.0.0.1", port)
    answers(port, name)
    docker("kill", name)
    closed(port)
    docker("start", name)
    assert can_connect("127.0.0.1", port)
    docker("rm", "-f", name)
    closed(port)


def test_pause_and_rename(docker1, lab):
    port = lab.free_port()
    name = web(docker1, "-p", f"{port}:80")
    docker1("pause", name)
    assert can_connect("127.0.0.1", port)
    docker1("unpause", name)
    answers(port, name)
    docker1("rename", name, name + "-new")
    wait_for(lambda: ports(lab, name + "-new"), 10, "the new name in tsctl status")
    answers(port, name)


def test_status(docker1, lab):
    port = lab.free_port()
    name = web(docker1, "-p", f"{port}:80")
    [p] = ports(lab, name)
    assert p["here"] == f"localhost:{port}" and p["there"] == f"127.0.0.1:{port}"
    assert p["proto"] == "tcp" and p["state"] == "open" and p["reason"] == ""
    text = run(BIN + "/tsctl", "status", env=lab.env).stdout
    assert f"{name}  localhost:{port} -> 127.0.0.1:{port}/tcp" in text


def test_many_bindings(docker1, lab):
    """A range, several for one port, this address and that one, and one that the laptop does not have."""
    a, b, c, d = (lab.free_port() for _ in range(4))
    lab.port += 3
    first = lab.port - 2
    name = web(docker1, "-p", f"{first}-{first + 2}:80-82", "-p", f"{a}:80", "-p", f"127.0.0.1:{b}:80",
               "-p", f"{REMOTE}:{c}:80", "-p", f"127.0.0.2:{d}:80")
    assert can_connect("127.0.0.1", first + 1) and can_connect("127.0.0.1", first + 2)
    for port in first, a, b, c:
        answers(port, name)
    answers(d, name, "127.0.0.2")
    assert not can_connect("::1", b) and not can_connect("127.0.0.1", d), "no more than was asked for"
    assert not any(can_connect(LAPTOP, p) for p in (a, b, c, d)), "not on the laptop's network"
    [p] = [p for p in ports(lab, name) if str(c) in p["here"]]
    assert p["state"] == "open" and REMOTE in p["reason"] and p["there"] == f"{REMOTE}:{c}"
    docker1("rm", "-f", name)
    closed(a)
    closed(d, "127.0.0.2")


def test_ipv6_loopback(docker1, lab):
    port = lab.free_port()
    name = web(docker1, "-p", f"[::1]:{port}:80")
    answers(port, name, "::1")
    assert not can_connect("127.0.0.1", port)


def test_ephemeral_numbers(docker, lab, direct):
    """-p 80 and -P: the same number on both hosts."""
    name = web(docker, "--expose", "90", "-P", "-p", "80")
    number = docker.out("port", name, "80").splitlines()[0].rsplit(":", 1)[1]
    assert number == direct.out("port", name, "80").splitlines()[0].rsplit(":", 1)[1]
    answers(int(number), name)
    assert can_connect("127.0.0.1", int(docker.out("port", name, "90").splitlines()[0].rsplit(":", 1)[1]))
    docker("restart", "-t", "0", name)
    number = docker.out("port", name, "80").splitlines()[0].rsplit(":", 1)[1]
    answers(int(number), name)


def test_a_taken_ephemeral_number_is_another_one_here(docker, lab, direct):
    there = lab.free_port()
    lab.port += 1
    with taken(there):
        name = web(docker, "-p", f"{there}-{there + 1}:80", "--label", "x=\u00e9<&>")
        assert direct.out("port", name, "80").splitlines()[0].endswith(f":{there}"), "the engine's choice"
        here = int(docker.out("port", name, "80").splitlines()[0].rsplit(":", 1)[1])
        assert here != there
        answers(here, name)
        assert f":{here}->80/tcp" in docker.out("ps", "--filter", f"name={name}")
        ours, engines = (json.loads(d.out("inspect", name))[0] for d in (docker, direct))
        for bindings in ours["NetworkSettings"]["Ports"].values():
            for b in bindings:
                assert b["HostPort"] == str(here)
                b["HostPort"] = str(there)
        assert ours == engines, "nothing else differs"
        [p] = ports(lab, name)
        assert p["state"] == "moved" and str(there) in p["reason"] and p["here"] == f"localhost:{here}"
    docker("rm", "-f", name)
    closed(here)
    other = web(docker, "-p", f"{there}:80")
    answers(there, other)


def test_a_taken_port_fails_the_start(docker, lab):
    free, port = lab.free_port(), lab.free_port()
    name = lab.name()
    with taken(port):
        r = docker("run", "-d", "--name", name, "-p", f"{free}:81", "-p", f"{port}:80", "bb", "httpd", "-f",
                   check=False)
        assert r.returncode == 125
        assert "driver failed programming external connectivity on endpoint " + name in r.stderr
        assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in r.stderr
        assert not can_connect("127.0.0.1", free), "nothing half done"
        assert docker.inspect(name, "{{.State.Status}} {{.State.Running}}") == "created false"
        r = docker("start", name, check=False)
        assert r.returncode == 1 and "port is already allocated" in r.stderr
        r = docker("restart", name, check=False)
        assert r.returncode == 1 and f"Cannot restart container {name}: driver failed" in r.stderr
    docker("start", name)
    assert can_connect("127.0.0.1", free) and can_connect("127.0.0.1", port)
    r = docker("run", "--rm", "-p", f"{port}:80", "bb", "true", check=False)
    assert r.returncode == 125 and "port is already allocated" in r.stderr, "and neither for our own containers"
    docker("rm", "-f", name)
    assert docker("run", "--rm", "-p", f"{port}:80", "bb", "echo", "now").stdout == "now\n"


def test_a_start_that_fails_lets_go(docker1, lab):
    port = lab.free_port()
    assert docker1("run", "-p", f"{port}:80", "bb", "/no/such/program", check=False).returncode == 127
    closed(port)
    with taken(port):
        pass
    name = web(docker1, "-p", f"{port}:80")
    docker1("start", name)  # 304
    answers(port, name)


def test_quick_exits_one_after_another(docker1, lab):
    """The port is free again for the next one, whatever the events say by then."""
    port = lab.free_port()
    for i in range(6):
        assert docker1("run", "--rm", "-p", f"{port}:80", "bb", "echo", i).stdout == f"{i}\n"
    for i in range(3):
        name = docker1.sleeper("-p", f"{port}:80")
        docker1("rm", "-f", name)
    name = docker1.sleeper("-p", f"{port}:80")
    lab.remote("kill", "-9", docker1.inspect(name, "{{.State.Pid}}"))
    docker1("wait", name)
    name = web(docker1, "-p", f"{port}:80")
    answers(port, name)


def test_many_starts_at_once(docker1, lab):
    n = 100 if FULL else 16
    first = lab.port + 1
    lab.port += n
    names = [lab.name() for _ in range(n)]
    for i, name in enumerate(names):
        docker1("create", "--name", name, "-p", f"{first + i}:80", "bb", "httpd", "-f", "-p", "80", "-h", "/www")
    started = [docker1.popen("start", name) for name in names]
    for i, p in enumerate(started):
        assert p.wait(120) == 0, p.stderr.read()
        assert can_connect("127.0.0.1", first + i)
    for i in range(n):
        answers(first + i, "hello from the container")
    docker1("rm", "-f", *names, timeout=120)
    for i in range(n):
        closed(first + i)


def test_restart_policy(docker1, lab):
    port = lab.free_port()
    name = web(docker1, "-p", f"{port}:80", "-p", "81", "--restart", "always")
    answers(port, name)
    lab.remote("kill", "-9", docker1.inspect(name, "{{.State.Pid}}"))
    wait_for(lambda: docker1.inspect(name, "{{.RestartCount}} {{.State.Running}}") == "1 true", 15, "restarted")
    answers(port, name)

    def number():
        r = docker1("port", name, "81", check=False).stdout.splitlines()
        return r and can_connect("127.0.0.1", int(r[0].rsplit(":", 1)[1]))
    wait_for(number, 10, "the new number of the ephemeral port")
    docker1("stop", "-t", "0", name)
    closed(port)


def test_another_client_on_the_engine(direct, docker1, lab):
    port, busy = lab.free_port(), lab.free_port()
    name = web(direct, "-p", f"{port}:80")
    answers(port, name)
    direct("restart", "-t", "0", name)
    answers(port, name)
    direct("stop", "-t", "0", name)
    closed(port)
    direct("start", name)
    answers(port, name)
    direct("rm", "-f", name)
    closed(port)
    with taken(busy):  # too late to refuse it: another number here
        name = web(direct, "-p", f"{busy}:80")
        [p] = wait_for(lambda: ports(lab, name), 10, "the port in tsctl status")
        assert p["state"] == "moved"
        answers(int(docker1.out("port", name, "80").splitlines()[0].rsplit(":", 1)[1]), name)


def test_networks(docker1, lab):
    """A container without a network, and one that gets its ports later."""
    port, late = lab.free_port(), lab.free_port()
    docker1("network", "create", "n1")
    try:
        name = web(docker1, "--network", "n1", "-p", f"{port}:80")
        answers(port, name)
        docker1("network", "disconnect", "n1", name)
        closed(port)
        docker1("network", "connect", "n1", name)
        answers(port, name)
        docker1("run", "-d", "--network", "none", "-p", f"{late}:80", "bb", "sleep", "1000")
        assert not can_connect("127.0.0.1", late)
        docker1("rm", "-f", name)
    finally:
        docker1("network", "rm", "n1")


COMPOSE = """
version: "2.4"
services:
  front:
    image: bb
    stop_signal: KILL
    command: sh -c 'echo front > /www/index.html; exec httpd -f -p 80 -h /www'
    ports: ["%d:80"]
  back:
    image: bb
    stop_signal: KILL
    command: sh -c 'echo back > /www/index.html; exec httpd -f -p 80 -h /www'
    ports: ["80"]
"""


def test_compose(docker1, lab):
    port = lab.free_port()
    d = lab.path("ports-compose")
    os.makedirs(d, exist_ok=True)
    with open(d + "/docker-compose.yml", "w") as f:
        f.write(COMPOSE % port)

    def compose(*args):
        return run("docker-compose", *args, cwd=d, env=docker1.env, timeout=90).stdout

    compose("up", "-d", "--scale", "back=2")
    try:
        answers(port, "front")
        backs = [int(compose("port", "--index", i, "back", "80").strip().rsplit(":", 1)[1]) for i in ("1", "2")]
        for b in backs:
            answers(b, "back")
        assert str(port) in compose("ps")
        compose("up", "-d", "-t", "0", "--scale", "back=1")
        closed(backs[1])
        answers(backs[0], "back")
        compose("restart", "-t", "0", "front")
        answers(port, "front")
    finally:
        compose("down", "-t", "0")
    closed(port)


def test_tsctl_guest_and_engine_restart(docker1, direct, lab):
    """What happened meanwhile is made good; the engine of the lab is another one afterwards."""
    port, kept, gone, new = (lab.free_port() for _ in range(4))
    src = lab.path("binds/" + lab.name())
    always = web(docker1, "-p", f"{port}:80", "-v", f"{src}:/app", "--restart", "always")
    stays = web(docker1, "-p", f"{kept}:80")
    goes = web(docker1, "-p", f"{gone}:80")

    lab.tsctl.stop()
    assert not can_connect("127.0.0.1", port)
    lab.ensure_tunnel()
    for p, name in (port, always), (kept, stays), (gone, goes):
        answers(p, name)

    lab.guest.kill()
    direct("rm", "-f", goes)
    comes = web(direct, "-p", f"{new}:80")
    assert can_connect("127.0.0.1", kept), "listeners stay"
    lab.ensure_tunnel()
    answers(new, comes)
    answers(kept, stays)
    closed(gone)

    lab.dockerd.stop(timeout=30)
    lab._start_engine()
    answers(port, always)
    with open(src + "/edit", "w") as f:  # and its directory is still one with ours
        f.write("1")
    wait_for(lambda: docker1("exec", always, "cat", "/app/edit", check=False).stdout == "1", 10, "the edit")
    docker1("exec", always, "touch", "/app/back")
    assert os.path.exists(src + "/back")
    closed(kept)
    closed(new)
    docker1("start", stays)
    answers(kept, stays)


def test_a_response_outlives_its_container(docker1, lab):
    """What the container has said still arrives when it is gone."""
    port = lab.free_port()
    size = 200000
    name = web(docker1, "-p", f"{port}:80", cmd=f"head -c {size} /dev/zero > /www/big; exec httpd -f -p 80 -h /www")
    wait_for(lambda: body(port), 10, "the server")

    def came():
        out = run(BIN + "/tsctl", "status", "--json", "--listen", f"127.0.0.1:{lab.tsctl.port}", env=lab.env).stdout
        return json.loads(out)[0]["bytes_in"]
    before = came()
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that most of it waits in tsctl
        s.settimeout(20)
        s.connect(("127.0.0.1", port))
        s.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        wait_for(lambda: came() - before > size, 10, "the response on this side")
        docker1("rm", "-f", name)
        closed(port)
        got = b"".join(iter(lambda: s.recv(1 << 16), b""))
    assert len(got.partition(b"\r\n\r\n")[2]) == size


def test_a_start_is_answered_when_the_port_answers(docker1, lab):
    """Also where only the engine knows the number, and looked at more closely than by a CLI."""
    first = lab.port + 1
    lab.port += 10
    c = http.client.HTTPConnection("127.0.0.1", lab.tsctl.port, timeout=30)

    def call(method, path, body=None):
        c.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        r = c.getresponse()
        data = r.read()
        assert r.status < 300, data
        return json.loads(data) if data else None
    for i in range(5):
        port = first + 2 * i
        made = call("POST", "/containers/create", {
            "Image": "bb", "Cmd": ["sleep", "1000"], "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": f"{port}-{port + 1}"}]}}})
        call("POST", f"/containers/{made['Id'][:12]}/start")
        assert can_connect("127.0.0.1", port)


def test_udp(docker1, lab, direct):
    """Of busybox nothing speaks UDP, so the container gets the remote host's Python: made by a client there,
    or its directories would be ours."""
    port = lab.free_port()
    name = lab.name()
    echo = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53))\n"
            "while True: s.sendto(*s.recvfrom(2000))")
    mounts = [f for d in ("/usr", "/lib", "/lib64") for f in ("-v", f"{d}:{d}:ro")]
    direct("create", "--name", name, *mounts, "-p", f"{port}:53/udp", "-p", f"{port}:80", "bb",
           "/usr/bin/python3", "-c", echo)
    docker1("start", name)
    assert can_connect("127.0.0.1", port), "the TCP port of the same number"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3)
        s.connect(("127.0.0.1", port))

        def echoed():
            with contextlib.suppress(OSError):
                s.send(b"datagram")
                return s.recv(100) == b"datagram"
        wait_for(echoed, 10, "an echo by UDP")
    assert docker1.out("port", name, "53/udp").splitlines()[0] == f"0.0.0.0:{port}"
    assert sorted(p["proto"] for p in ports(lab, name)) == ["tcp", "udp"]


def test_flags(lab, direct):
    """--no-publish, --publish-address, --publish-remote loopback."""
    port, wide, off = (lab.free_port() for _ in range(3))
    loop = Docker(lab, host=lab.start_tsctl(lab.guest, "--no-publish", "--publish-remote", "loopback").url)
    name = web(loop, "-p", f"{port}:80", "--expose", "90", "-P")
    for ip, number in (line.rsplit(" ", 1)[1].rsplit(":", 1) for line in direct.out("port", name).splitlines()):
        assert ip == "127.0.0.1" and not can_connect(REMOTE, int(number))
    assert len(direct.out("port", name).splitlines()) == 2
    answers(port, name)  # by the standing tsctl, which follows the same engine
    big = os.path.join(lab.dir, "big.json")
    with open(big, "w") as f:
        f.write('{"Image":"bb","Labels":{"x":"%s"}}' % ("y" * (5 << 20)))
    r = run("curl", "-s", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-H", "Expect:",
            "--data-binary", "@" + big, loop.env["DOCKER_HOST"].replace("tcp", "http") + "/containers/create")
    assert r.stdout.endswith("413") and "over 4194304 bytes" in r.stdout
    lab.tsctl.stop()
    t = lab.start_tsctl(lab.guest, "--publish-address", "0.0.0.0")
    name = web(Docker(lab, host=t.url), "-p", f"{wide}:80")
    answers(wide, name, LAPTOP)
    t.stop()
    web(loop, "-p", f"{off}:80")
    assert not can_connect("127.0.0.1", off)
    for flags, text in ([["--publish-address", "localhost"], "must be an IP address"],
                        [["--publish-remote", "x"], 'takes only "loopback"']):
        r = run(BIN + "/tsctl", "start", "--ts-server", "x:1", *flags, check=False)
        assert r.returncode == 1 and text in r.stderr


def test_a_guest_that_ends_is_not_kept_waiting(lab, docker1):
    """What tsctl follows never ends by itself: it moves when the guest says goodbye."""
    g = lab.start_guest()
    t = lab.start_tsctl(g, "--log-level", "debug")
    docker1("run", "-d", "--network", "host", "bb", "sleep", "10000")
    wait_for(lambda: lab.remote("pgrep", "-f", "listeners-worker", check=False).stdout.count("\n") == 2, 10,
             "both guests look for listeners")
    g.stop(timeout=5)  # its grace is 10 s
    t.stop(timeout=5)


def test_an_engine_on_this_machine(lab, direct):
    """Its ports are here already: nothing is bound that would be in the engine's way."""
    port, there = lab.free_port(), lab.free_port()
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{there}", "--ts-server",
                              lab.guest.address, *lab.mtls_client_flags()], remote=True)
    wait_for(lambda: "host is this machine" in t.text(), 10, "it notices")
    env = dict(lab.env, DOCKER_HOST=f"tcp://127.0.0.1:{there}")
    r = run(*lab.remote_argv(lab.cli, "run", "-d", "-p", f"{port}:80", "bb", "httpd", "-f", "-h", "/www"), env=env)
    answers(port, "hello from the container")
    assert r.returncode == 0 and "port-open" not in t.text()


def test_host_network(docker1, lab):
    """No port is published there: what listens is found."""
    first, second, alone, busy = (lab.free_port() for _ in range(4))
    name = lab.name()
    docker1("run", "-d", "--name", name, "--network", "host", "bb", "sh", "-c",
            f"httpd -p {first} -h /www; httpd -p 127.0.0.1:{alone} -h /www; exec sleep 10000")
    answers(first, "hello from the container")
    answers(alone, "hello from the container")
    assert not can_connect("127.0.0.1", 8080), "not the guest's own port"
    docker1("exec", name, "httpd", "-p", str(second), "-h", "/www")
    answers(second, "hello from the container")
    assert {p["state"] for p in ports(lab, name)} == {"open"}
    lab.remote("pkill", "-f", f"httpd -p {second}")
    closed(second)
    with taken(busy):
        docker1("exec", name, "httpd", "-p", str(busy), "-h", "/www")
        [p] = wait_for(lambda: [p for p in ports(lab, name) if p["there"].endswith(f":{busy}")], 10, "it is found")
        assert p["state"] == "failed" and "address already in use" in p["reason"]

    lab.guest.kill()
    lab.ensure_tunnel()
    docker1("exec", name, "httpd", "-p", str(second), "-h", "/www")
    answers(second, "hello from the container")
    docker1("rm", "-f", name)
    for port in first, second, alone:
        closed(port)
    wait_for(lambda: not lab.remote("pgrep", "-f", "listeners-worker", check=False).stdout, 10, "no worker is left")
