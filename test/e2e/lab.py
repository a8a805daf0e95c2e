"""Two hosts on one machine.

The pytest process itself moves into the "laptop": a network namespace of its own, with a private
/etc/hosts and /etc/resolv.conf. The "remote host" is a process with network, mount and pid
namespaces of its own, joined to the laptop by a veth pair, with an empty /run, a /var/lib/tstunnel of
its own and a private dockerd on its /run/docker.sock. All of it is anonymous: when the remote's first process dies, everything
there dies with it, and the kernel removes the namespaces, mounts and links.

    laptop 10.77.0.1 (pytest, docker CLI, tsctl) === 10.77.0.2 remote (guest, dockerd, containers)
"""
import contextlib
import ctypes
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time

from pki import Pki

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.path.abspath(os.environ.get("TSTUNNEL_BIN") or os.path.join(ROOT, "bin"))
SAN = bool(os.environ.get("TSTUNNEL_SAN"))
DIRECT = os.environ.get("TSLAB_DIRECT") == "1"  # no tunnel: the tests against the bare engine
FULL = os.environ.get("TSLAB_FULL") == "1"  # the sizes that the project promises
CLIS = [p for p in ("/usr/local/bin/docker", "/usr/bin/docker") if os.access(p, os.X_OK)]

LAPTOP, REMOTE = "10.77.0.1", "10.77.0.2"
HOST = "containers.tinyscale.net"  # the remote's name in /etc/hosts and in its certificate

CLONE_NEWNS, CLONE_NEWNET, CLONE_FS = 0x20000, 0x40000000, 0x200
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)

# Process 1 of the remote: reaps orphans.
INIT = """
import os, time
print("up", flush=True)
while True:
    try: os.wait()
    except ChildProcessError: time.sleep(0.1)
"""


def _check(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for(condition, timeout=10, what="condition"):
    """The first true result of condition(), asked again and again; AssertionError after timeout."""
    deadline = time.monotonic() + timeout
    pause = 0.01
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def open_files(pid):
    """What the descriptors of a process point to. One that is closed while we look is left out."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def can_connect(host, port):
    """Does somebody listen there? Who resets what he has accepted does."""
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except ConnectionResetError:
        return True
    except OSError:
        return False


def run(*argv, input=None, check=True, timeout=60, text=True, **kw):
    """A command to its end. With check, a non-zero status fails with what it printed."""
    if input is None:
        kw.setdefault("stdin", subprocess.DEVNULL)
    else:
        kw["input"] = input
    r = subprocess.run([str(a) for a in argv], capture_output=True, timeout=timeout, text=text, **kw)
    if check and r.returncode != 0:
        raise AssertionError(f"{argv} -> {r.returncode}\nstdout: {r.stdout[-2000:]}\nstderr: {r.stderr[-2000:]}")
    return r


class Program:
    """A daemon of the lab: its output in a log file, its real pid (nsenter forks)."""

    def __init__(self, name, argv, log, forks=False, **kw):
        self.name, self.log, self.argv = name, log, argv
        self.expect_death = False  # a test ended it, or knows that it will end
        self.keep = False  # lives on when the test that started it is over
        self.out = open(log, "ab")
        self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out,
                                      stderr=subprocess.STDOUT, **kw)
        self.forks = forks
        self._pid = None

    @property
    def pid(self):
        if not self.forks:
            return self.popen.pid
        if self._pid is None:
            path = f"/proc/{self.popen.pid}/task/{self.popen.pid}/children"
            self._pid = int(wait_for(lambda: open(path).read().split() or not self.alive() and ["0"],
                                     what="nsenter's child")[0])
        return self._pid

    def alive(self):
        return self.popen.poll() is None

    def wait_listening(self, host, port, timeout=15):
        def up():
            if not self.alive():
                raise AssertionError(f"{self.name} ended: {self.popen.returncode}\n{self.text()}")
            return can_connect(host, port)
        wait_for(up, timeout, f"{self.name} on {host}:{port}")
        return self

    def signal(self, signo):
        if self.alive():
            os.kill(self.pid, signo)

    def wait(self, timeout=10):
        return self.popen.wait(timeout)

    def kill(self):
        self.expect_death = True
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            self.popen.wait(10)

    def stop(self, timeout=15):
        """SIGTERM; returns the exit status."""
        self.expect_death = True
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end on SIGTERM\n{self.text()}")

    def text(self):
        return open(self.log, errors="replace").read()

    def memory(self, field="VmHWM"):
        """Peak (VmHWM) or present (VmRSS) resident memory in MiB."""
        m = re.search(field + r":\s+(\d+) kB", open(f"/proc/{self.pid}/status").read())
        return int(m.group(1)) / 1024


class Lab:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="tslab-")
        self.id = os.path.basename(self.dir)
        self.cli = CLIS[0] if CLIS else "docker"
        self.programs = []
        self.guest = self.tsctl = self.plain = None
        self.deaths = []
        self.serial = 0
        self.port = 20000
        self.env = dict(os.environ, LC_ALL="C", HOME=self.path("home"), XDG_RUNTIME_DIR=self.path("run"),
                        DOCKER_CONFIG=self.path("home/.docker"), PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        for k in [k for k in self.env if k.startswith(("DOCKER_", "COMPOSE_", "TSTUNNEL_", "XDG_", "http_", "HTTP_"))]:
            if k not in ("DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
                del self.env[k]
        for d in ("home", "run", "etc", "log", "data", "guest-state"):
            os.mkdir(self.path(d), 0o700)

    def path(self, name):
        return os.path.join(self.dir, name)

    def name(self):
        self.serial += 1
        return f"t{self.serial}"

    def free_port(self):
        """A port that nothing in the lab has used yet, on either host."""
        self.port += 1
        return self.port

    # -- the hosts ------------------------------------------------------------------------------

    def up(self):
        self._enter_laptop()
        self._start_remote()
        self.pki = Pki(self.path("pki"))
        if CLIS:
            self._start_engine()
            self._import_image()

    def _enter_laptop(self):
        _check(libc.unshare(CLONE_FS | CLONE_NEWNS | CLONE_NEWNET), "unshare (root is needed)")
        _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
        self.write_etc("hosts", f"127.0.0.1 localhost\n{REMOTE} {HOST} abc.{HOST} other.example remote-host\n")
        self.write_etc("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        for f in ("hosts", "resolv.conf"):
            real = os.path.realpath("/etc/" + f)
            if os.path.exists(real):
                _check(libc.mount(self.path("etc/" + f).encode(), real.encode(), None, MS_BIND, None), f)
        run("ip", "link", "set", "lo", "up")

    def write_etc(self, name, text):
        with open(self.path("etc/" + name), "w") as f:
            f.write(text)

    def _start_remote(self):
        os.makedirs("/var/lib/tstunnel", exist_ok=True)  # what the guest keeps there is the lab's
        self.holder = subprocess.Popen(
            ["unshare", "-n", "-m", "-p", "-u", "-f", "--mount-proc", "--kill-child=KILL", "sh", "-c",
             'mount -t tmpfs tmpfs /run && mount --bind "$1" /var/lib/tstunnel && hostname remote-host && ip link set lo up && exec /usr/bin/python3 -c "$0"',
             INIT, self.path("guest-state")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=open(self.path("log/remote"), "wb"),
            preexec_fn=_die_with_parent)
        assert self.holder.stdout.readline() == b"up\n", "the remote host did not start"
        pid = self.holder.pid
        self.remote_pid = int(open(f"/proc/{pid}/task/{pid}/children").read().split()[0])
        run("ip", "link", "add", "ts0", "type", "veth", "peer", "name", "ts0", "netns", self.remote_pid)
        run("ip", "addr", "add", f"{LAPTOP}/24", "dev", "ts0")
        run("ip", "link", "set", "ts0", "up")
        self.remote("ip", "addr", "add", f"{REMOTE}/24", "dev", "ts0")
        self.remote("ip", "link", "set", "ts0", "up")

    def remote_argv(self, *argv):
        return ["nsenter", "-t", str(self.remote_pid), "-n", "-m", "-p", "-u", "--"] + [str(a) for a in argv]

    def remote(self, *argv, **kw):
        """Runs a command on the remote host to its end."""
        return run(*self.remote_argv(*argv), env=self.env, **kw)

    def program(self, name, argv, remote=False, env=None):
        self.serial += 1
        log = self.path(f"log/{self.serial:03d}-{name}")
        argv = [str(a) for a in argv]
        p = Program(name, self.remote_argv(*argv) if remote else argv, log, forks=remote,
                    env=dict(self.env, **(env or {})), preexec_fn=_die_with_parent)
        self.programs.append(p)
        return p

    def _start_engine(self):
        with open(self.path("daemon.json"), "w") as f:
            f.write("{}")
        self.dockerd = self.program("dockerd", [
            "dockerd", "--data-root", self.path("data"), "--config-file", self.path("daemon.json"),
            "-H", "unix:///run/docker.sock", "--bip", "172.31.0.1/24",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/" + self.id], remote=True)
        self.dockerd.keep = True
        self.engine_socket = f"/proc/{self.remote_pid}/root/run/docker.sock"

        def up():
            assert self.dockerd.alive(), self.dockerd.text()[-3000:]
            return run(self.cli, "-H", "unix://" + self.engine_socket, "version", check=False,
                       env=self.env).returncode == 0
        wait_for(up, 60, "dockerd")

    def _import_image(self):
        path = self.path("bb.tar")
        busybox = "/bin/busybox"
        applets = run(busybox, "--list").stdout.split()
        with tarfile.open(path, "w") as tar:
            def add(name, data=b"", mode=0o755, type=tarfile.REGTYPE, link=""):
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.type, info.linkname = len(data), mode, type, link
                tar.addfile(info, io.BytesIO(data))
            for d in ("bin", "etc", "www", "root", "dev", "proc", "sys"):
                add(d, type=tarfile.DIRTYPE)
            add("tmp", mode=0o1777, type=tarfile.DIRTYPE)
            add("bin/busybox", open(busybox, "rb").read())
            for a in applets:
                if a != "busybox":
                    add("bin/" + a, type=tarfile.SYMTYPE, link="busybox")
            add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
            add("www/index.html", b"hello from the container\n", 0o644)
        run(self.cli, "-H", "unix://" + self.engine_socket, "import", "-c", 'CMD ["sh"]', path, "bb:latest",
            env=self.env)

    def down(self):
        for p in reversed(self.programs):
            if p.name != "dockerd" and p.alive():
                p.signal(signal.SIGTERM)
        for p in reversed(self.programs):
            if p.name != "dockerd":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    p.wait(5)
        if hasattr(self, "holder"):
            self.holder.kill()
            os.kill(self.remote_pid, signal.SIGKILL)
            self.holder.wait()
        for p in self.programs:
            if p.alive():
                p.popen.kill()
                p.popen.wait()
        self._remove_cgroups()
        self.final_reports = self.reports()
        if os.environ.get("TSLAB_KEEP") != "1":
            shutil.rmtree(self.dir, ignore_errors=True)

    def _remove_cgroups(self):
        def gone():
            left = False
            for top, dirs, _ in os.walk("/sys/fs/cgroup"):
                if self.id in dirs:
                    for d, _, _ in os.walk(os.path.join(top, self.id), topdown=False):
                        try:
                            os.rmdir(d)
                        except OSError:
                            left = True
                    dirs.remove(self.id)
                if top.count("/") > 4:
                    dirs.clear()
            return not left
        with contextlib.suppress(AssertionError):
            wait_for(gone, 5, "cgroups removed")

    # -- our programs -----------------------------------------------------------------------------

    def mtls_guest_flags(self):
        p = self.pki
        return ["--server-cert", p.crt("server"), "--server-key", p.key("server"), "--ca-certs", p.crt("ca")]

    def mtls_client_flags(self, prefix="--ts-", who="client"):
        p = self.pki
        return [prefix + "cert", p.crt(who), prefix + "key", p.key(who), prefix + "ca", p.crt("ca")]

    def start_guest(self, *flags, port=None, listen=None, mtls=True):
        """A guest on the remote host, reachable from the laptop; .address is its HOST:PORT."""
        port = port or self.free_port()
        listen = listen or f"{REMOTE}:{port}"
        argv = [BIN + "/guest", "--listen", listen]
        argv += self.mtls_guest_flags() if mtls else ["--insecure"]
        g = self.program("guest", argv + list(flags), remote=True)
        g.port, g.address = port, f"{HOST if mtls else REMOTE}:{port}"
        return g.wait_listening(REMOTE, port)

    def start_tsctl(self, guest, *flags, port=None, mtls=True, env=None):
        """tsctl start on the laptop, in the foreground; .url is its DOCKER_HOST."""
        port = port or self.free_port()
        argv = [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{port}", "--ts-server",
                getattr(guest, "address", guest)]
        argv += self.mtls_client_flags() if mtls else []
        t = self.program("tsctl", argv + list(flags), env=env)
        t.port, t.url = port, f"tcp://127.0.0.1:{port}"
        return t.wait_listening("127.0.0.1", port)

    def ensure_tunnel(self):
        """The standing mTLS tunnel of the session, started again if a test ended one of its sides."""
        for p in (self.guest, self.tsctl, self.plain):
            if p and not p.alive() and not p.expect_death:
                p.expect_death = True
                self.deaths.append(f"{p.name} ended by itself: {p.popen.returncode} ({p.log})")
        if self.guest is None or not self.guest.alive():
            self.guest = self.start_guest(port=8080)
            self.guest.keep = True
        if self.tsctl is None or not self.tsctl.alive():
            self.tsctl = self.start_tsctl(self.guest, port=2375)
            self.tsctl.keep = True
        return self

    def ensure_plain_guest(self):
        """The standing guest without certificates."""
        if self.plain is None or not self.plain.alive():
            self.plain = self.start_guest(mtls=False)
            self.plain.keep = True
            self.plain.http = f"http://{self.plain.address}"
        return self.plain

    @property
    def docker_host(self):
        return "unix://" + self.engine_socket if DIRECT else self.tsctl.url

    def reports(self):
        """Programs that ended unasked, and what the sanitizers said in any log."""
        found = list(self.deaths)
        for p in self.programs:
            for line in p.text().splitlines():
                if "Sanitizer" in line or "runtime error:" in line:
                    found.append(f"{p.name} ({p.log}): {line}")
        return found

    def host_exec_argv(self, *args, guest=None, flags=None):
        guest = guest or self.guest
        flags = self.mtls_client_flags("--") if flags is None else flags
        return [BIN + "/tsctl", "host-exec", "--server-addr", guest.address] + list(flags) + [str(a) for a in args]

    def host_exec(self, *args, guest=None, flags=None, **kw):
        return run(*self.host_exec_argv(*args, guest=guest, flags=flags), env=self.env, **kw)


class Docker:
    """One docker CLI pointed at one DOCKER_HOST."""

    def __init__(self, lab, cli=None, host=None, env=None):
        self.lab, self.cli = lab, cli or lab.cli
        self.env = dict(lab.env, DOCKER_HOST=host or lab.docker_host, **(env or {}))
        self.new = self.cli == "/usr/local/bin/docker"

    def __call__(self, *args, **kw):
        return run(self.cli, *args, env=dict(self.env, **kw.pop("env", {})), **kw)

    def out(self, *args, **kw):
        return self(*args, **kw).stdout.strip()

    def popen(self, *args, **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([self.cli] + [str(a) for a in args], env=self.env, **kw)

    def inspect(self, what, fmt):
        return self.out("inspect", "-f", fmt, what)

    def sleeper(self, *args):
        """A container that only sleeps; its name."""
        name = self.lab.name()
        self("run", "-d", "--name", name, *args, "bb", "sleep", "10000")
        return name


class UnixHTTP:
    """The engine's API without CLI or tunnel, for looking and cleaning up."""

    def __init__(self, path):
        self.path = path

    def request(self, method, path):
        import http.client
        c = http.client.HTTPConnection("docker", timeout=30)
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(self.path)
        c.request(method, path)
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, data

    def get(self, path):
        return json.loads(self.request("GET", path)[1])


class Pty:
    """A program on a terminal of its own."""

    def __init__(self, argv, env, rows=24, cols=80):
        self.master, slave = os.openpty()
        self.resize(rows, cols)
        self.text = b""
        self.popen = subprocess.Popen([str(a) for a in argv], env=env, stdin=slave, stdout=slave, stderr=slave,
                                      start_new_session=True,
                                      preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))  # TIOCSCTTY
        os.close(slave)
        os.set_blocking(self.master, False)

    def resize(self, rows, cols):
        import fcntl
        import struct
        import termios
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        if hasattr(self, "popen"):
            os.killpg(self.popen.pid, signal.SIGWINCH)

    def send(self, data):
        os.write(self.master, data if isinstance(data, bytes) else data.encode())

    def type(self, keys, pause=0.1):
        """One key at a time, as a person does: docker knows detach keys only in reads of their own."""
        for key in keys:
            self.send(bytes([key]))
            time.sleep(pause)

    def _pull(self):
        with contextlib.suppress(BlockingIOError):
            try:
                while chunk := os.read(self.master, 65536):
                    self.text += chunk
            except OSError as e:
                if e.errno != 5:  # EIO: the other side of the terminal is gone
                    raise

    def expect(self, what, timeout=20):
        """Waits until the bytes have come; forgets what is before and with them."""
        what = what if isinstance(what, bytes) else what.encode()

        def there():
            self._pull()
            return what in self.text
        try:
            wait_for(there, timeout, f"{what!r} on the terminal")
        except AssertionError as e:
            raise AssertionError(f"{e}; seen: {self.text[-1000:]!r}") from None
        before, _, self.text = self.text.partition(what)
        return before

    def wait(self, timeout=20):
        def ended():
            self._pull()
            return self.popen.poll() is not None
        wait_for(ended, timeout, "program on the terminal ends")
        self._pull()
        return self.popen.returncode

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        os.close(self.master)
