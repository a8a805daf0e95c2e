"""Who is compared in the bench of sandboxes: relays to one address, servers of one small answer, and what makes
a sandbox that ssh gets into."""
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import peers as P
import rig
from peers import Peer, write
from rig import BIN, ROOT, WORK, BenchError, Program, ports, wait_port

sys.path.insert(0, ROOT + "/test/e2e")

OURS = "pico-apiserver"
ANSWER = '{"status":"ok","version":"0.0.0"}'  # nginx's and haproxy's: as long as ours


# -- pico-apiserver ----------------------------------------------------------------------------------

def api_run(port, *flags):
    """Without --state-dir: what it made goes when it ends."""
    return Program(OURS, [BIN + "/pico-apiserver", "--port", port, *flags])


def request(port, method, path, body=None):
    """The answer's JSON, if its status is what a success has."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        c.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
        r = c.getresponse()
        data = r.read()
    finally:
        c.close()
    if r.status not in (200, 201):
        raise BenchError(f"{method} {path}: {r.status}: {data[:300].decode(errors='replace')}")
    return json.loads(data)


class Tunnel(Peer):
    """Every connection is a CONNECT first, to one of what paths(running) gives."""
    def __init__(self, name, start, paths):
        super().__init__(name, "plain", 1, start, "")
        self.paths = paths

    def start(self):
        running = super().start()
        try:
            running.through = self.paths(running)
        except BaseException:
            running.stop()
            raise
        return running


def sessions(n):
    return lambda running: [f"/v1/sessions/{request(running.port, 'POST', '/v1/sessions')['session_id']}/tunnel" for _ in range(n)]


def to_address(port, _between, target):
    return [api_run(port, "--backend", "address", "--sandbox-address", f"127.0.0.1:{target}")], []


def tinyproxy(port, _between, _target):
    conf = write("tinyproxy.conf", f"""
Port {port}
Listen 127.0.0.1
Timeout 3600
MaxClients 2000
Allow 127.0.0.1
LogLevel Critical
LogFile "{WORK}/tinyproxy.err"
PidFile "{WORK}/tinyproxy.pid"
DisableViaHeader Yes
""")
    return [Program("tinyproxy", ["tinyproxy", "-d", "-c", conf])], []


# bench/relay's bare splice relay is the limit, haproxy copies unless told to splice; tinyproxy CONNECTs, too.
TUNNELS = [P.BY_NAME[n] for n in ("direct", "splice", "haproxy", "haproxy-splice")] + [
    Tunnel("tinyproxy", tinyproxy, lambda running: [f"127.0.0.1:{running.target}"]), Tunnel(OURS, to_address, sessions(1))]


# -- a small static answer -----------------------------------------------------------------------------

def health_nginx(port, _between, _target):
    conf = write("nginx-health.conf", f"""
daemon off;
user root;
worker_processes 1;
pid {WORK}/nginx-health.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type application/json;
        location /health {{ return 200 '{ANSWER}\\n'; }}
    }}
}}
""")
    return [Program("nginx-health", ["nginx", "-e", f"{WORK}/nginx-health.err", "-c", conf])], []


def health_haproxy(port, _between, _target):
    conf = write("haproxy-health.cfg", f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout client 1h
    timeout http-keep-alive 1h
frontend health
    bind 127.0.0.1:{port}
    http-request return status 200 content-type application/json string "{ANSWER.replace('"', chr(92) + '"')}"
""")
    return [Program("haproxy-health", ["haproxy", "-db", "-f", conf])], []


HEALTH = [Peer("nginx", "plain", 1, health_nginx, ""), Peer("haproxy", "plain", 1, health_haproxy, ""),
          Peer(OURS, "plain", 1, to_address, "")]


# -- many sshds ----------------------------------------------------------------------------------------

def sshd_conf(port):
    """Of an sshd that many may knock at at once. Its user's own .bashrc is not measured."""
    d, _ = P.ssh_keys()
    return write(f"sshd_config.{port}", f"""
ListenAddress 127.0.0.1:{port}
HostKey {d}/host
AuthorizedKeysFile {d}/user.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
MaxStartups 2000:1:2000
SetEnv HOME={WORK}
LogLevel ERROR
""")


def sshd_run(port):
    sshd = Program("sshd-many", ["/usr/sbin/sshd", "-D", "-e", "-f", sshd_conf(port)])
    wait_port(port, [sshd])
    return sshd


def before_sshd(near):
    """The sshd that listens, and what stands before it."""
    def start(port, between, target):
        sshd = sshd_run(target)
        return near(port, between, target)[0], [sshd]
    return start


BANNERS = [Peer("sshd", "plain", 1, lambda _port, _between, target: ([], [sshd_run(target)]), ""),
           Peer("haproxy-splice", "plain", 1, before_sshd(P.haproxy(True)), ""),
           Tunnel(OURS + "-address", before_sshd(to_address), sessions(1)),
           Tunnel(OURS + "-process", lambda port, *_: ([api_run(port, "--backend", "process")], []), sessions(10))]

RELAYS = TUNNELS + HEALTH + BANNERS


# -- a sandbox until ssh's first output ----------------------------------------------------------------

def public_key():
    with open(P.ssh_keys()[0] + "/user.pub") as f:
        return f.read().strip()


SSH = ["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
       "-o", "BatchMode=yes"]


def first_output(argv, want=b"up"):
    """Runs it; the time when the first byte of its output was there, which must have those words."""
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        said = p.stdout.read(1)
        at = time.perf_counter()
        said += p.stdout.read()
        why = p.stderr.read()[-300:].decode(errors="replace")
        if p.wait(20) != 0 or want not in said:
            raise BenchError(f"{os.path.basename(argv[0])}: {p.returncode}: {why.strip()}")
        return at
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
        p.stderr.close()


def ssh(host, *options):
    return first_output(["ssh", *options, *SSH, "-i", P.ssh_keys()[0] + "/user", host, "echo up"])  # the first of each counts


class Floor:
    """What ssh alone takes: an sshd that runs, nothing made."""
    name, made = "ssh to an sshd that runs", False

    def __init__(self):
        self.port, = ports(1)
        self.sshd = sshd_run(self.port)

    def once(self):
        began = time.perf_counter()
        return {"output": ssh("root@127.0.0.1", "-p", str(self.port)) - began}

    def stop(self):
        self.sshd.stop()


class Session:
    """POST /v1/sessions, then ssh or test-tunnel through CONNECT, then DELETE."""
    def __init__(self, backend, client, *flags):
        self.name, self.made = f"**{OURS}, {backend}**" + ("" if client == "ssh" else f", {client}"), True
        self.client = client
        self.port, = ports(1)
        self.api = api_run(self.port, "--backend", backend, *flags)
        wait_port(self.port, [self.api])

    def once(self):
        began = time.perf_counter()
        s = request(self.port, "POST", "/v1/sessions", {"sshPublicKey": public_key()})["session_id"]
        ready = time.perf_counter()
        url = f"http://127.0.0.1:{self.port}"
        try:
            if self.client == "ssh":
                at = ssh("sandbox@sandbox", "-o", f"ProxyCommand={BIN}/test-tunnel -W -api {url} -session {s}")
            else:
                at = first_output([BIN + "/test-tunnel", "-api", url, "-session", s, "-key", P.ssh_keys()[0] + "/user",
                                   "-cmd", "echo up", "-n", "1"], b"1 passed")
            return {"ready": ready - began, "output": at - began}
        finally:
            request(self.port, "DELETE", f"/v1/sessions/{s}")

    def stop(self):
        self.api.stop()


class Engine:
    """A dockerd of the bench's own, with the image that the end-to-end tests make."""
    socket, host = WORK + "/docker.sock", "unix://" + WORK + "/docker.sock"

    def __init__(self):
        self.cli = shutil.which("docker")
        if not self.cli or not shutil.which("dockerd"):
            raise BenchError("no docker, dockerd here")
        self.engine_socket, self.env = self.socket, dict(os.environ, HOME=WORK, DOCKER_CONFIG=WORK)
        self.cgroup = f"tsbench-{os.urandom(4).hex()}"
        self.dockerd = Program("dockerd", [
            "dockerd", "--data-root", WORK + "/docker", "--config-file", write("daemon.json", "{}"), "-H", self.host,
            "--pidfile", WORK + "/dockerd.pid", "--exec-root", WORK + "/docker-exec", "--bip", "172.31.0.1/24",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/" + self.cgroup], dict(os.environ, HOME=WORK))
        end = time.monotonic() + 60
        while self.docker("version", check=False).returncode != 0:
            self.dockerd.check()
            if time.monotonic() > end:
                raise BenchError(f"dockerd does not answer: {self.dockerd.text()[-300:]}")
            time.sleep(0.1)
        import sandbox_image
        try:
            sandbox_image.load(self)
        except AssertionError as e:
            raise BenchError(f"no image: {e}") from e

    def docker(self, *args, check=True):
        r = subprocess.run([self.cli, "-H", self.host, *args], env=self.env, capture_output=True, text=True, timeout=60,
                           stdin=subprocess.DEVNULL)
        if check and r.returncode != 0:
            raise BenchError(f"docker {args[0]}: {r.stderr.strip()[-300:]}")
        return r

    def stop(self):
        self.docker("kill", *self.docker("ps", "-q", check=False).stdout.split(), check=False)
        self.dockerd.p.terminate()
        try:
            self.dockerd.p.wait(10)
        except subprocess.TimeoutExpired:
            pass
        self.dockerd.stop()
        for top, dirs, _ in os.walk("/sys/fs/cgroup"):
            if self.cgroup in dirs:
                for d, _, _ in os.walk(f"{top}/{self.cgroup}", topdown=False):
                    try:
                        os.rmdir(d)
                    except OSError:
                        pass
                dirs.remove(self.cgroup)


class DockerRun:
    """The same container by hand: docker run, docker inspect, until the sshd speaks, ssh to its address; the host
    key taken from it first, as ours does, or believed."""
    made = True

    def __init__(self, engine, with_key):
        self.engine, self.with_key = engine, with_key
        self.name = "docker run, inspect, cp of the host key, ssh" if with_key else "docker run, inspect, ssh: any host key"

    def once(self):
        began = time.perf_counter()
        c = self.engine.docker("run", "-d", "--init", "--memory", "1g", "--pids-limit", "512", "-e",
                               "SANDBOX_AUTHORIZED_KEYS=" + public_key(), "sandbox:latest").stdout.strip()
        try:
            address = self.engine.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c).stdout.strip()
            self.speaks(address, began + 30)
            options = []
            if self.with_key:
                self.engine.docker("cp", c + ":/etc/ssh/ssh_host_ed25519_key.pub", WORK + "/host.pub")
                with open(WORK + "/host.pub") as f:
                    options = ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={write('known', address + ' ' + f.read())}"]
            ready = time.perf_counter()
            return {"ready": ready - began, "output": ssh(f"sandbox@{address}", *options) - began}
        finally:
            self.engine.docker("rm", "-f", c)

    @staticmethod
    def speaks(address, end):
        while time.perf_counter() < end:
            with socket.socket() as s:
                s.settimeout(1)
                try:
                    s.connect((address, 22))
                    if s.recv(4) == b"SSH-":
                        return
                except OSError:
                    pass
            time.sleep(0.001)
        raise BenchError(f"no sshd at {address}")

    def stop(self):
        pass
