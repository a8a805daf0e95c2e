"""The bench's ground: a namespace of its own, programs on their core, what they cost."""
import ctypes
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BIN = os.path.abspath(os.environ.get("TSTUNNEL_BIN", ROOT + "/bin"))
TOOLS = os.path.abspath(os.environ.get("TSTUNNEL_BENCH", ROOT + "/build/gcc/bench"))
WORK = "/run/bench"  # in our own mount namespace, on a tmpfs of our own

CPUS = sorted(os.sched_getaffinity(0))
RELAY_CPU, LOAD_CPU = CPUS[0], CPUS[-1]  # all relays on one, the load generator on the other
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, PR_SET_PDEATHSIG = 0x20000, 0x20000000, 0x40000000, 1


class BenchError(Exception):
    pass


# -- namespaces --------------------------------------------------------------------------------------

def enter():
    """From here on this is the first process of its own network, process and mount namespaces: all
    that it starts ends with it, whatever ends it, and nothing stays in the file system."""
    if os.geteuid() != 0:
        sys.exit("bench: makes namespaces: needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) != 0:
        sys.exit(f"bench: unshare: {os.strerror(ctypes.get_errno())}")
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the child, too
        for signo in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(signo, lambda *_: os.kill(child, signal.SIGTERM))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.exit(code if code >= 0 else 128 - code)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # BBR paces even loopback, which hides every difference.
    sysctl("net/ipv4/tcp_congestion_control", "reno")
    sysctl("net/ipv4/ip_local_port_range", "30000 65535")
    os.makedirs(WORK)
    os.makedirs("/run/sshd")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {LOAD_CPU})


def sysctl(name, value):
    with open("/proc/sys/" + name, "w") as f:
        f.write(value)


def hold_memory(mb):
    """Free memory in pieces of under 2 MB: whole ones go back to the machine's host, and it costs
    4.4 s/GB to get them again. A child keeps the splinters until the end."""
    r, w = os.pipe()
    if os.fork():
        os.close(w)
        os.read(r, 1)
        os.close(r)
        return
    m = mmap.mmap(-1, mb << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, mb << 20, 4096):
        m[at] = 1
    for at in range(0, mb << 20, 1 << 19):  # one page of each half MB stays
        m.madvise(mmap.MADV_DONTNEED, at + 4096, (1 << 19) - 4096)
    os.write(w, b"x")
    while True:
        signal.pause()


# -- programs ----------------------------------------------------------------------------------------

_block = 0


def ports(n=4):
    """Port numbers that nobody used in this run."""
    global _block
    _block += n
    return list(range(10000 + _block - n, 10000 + _block))


class Program:
    """A relay's process, on the relays' core (or on those of everywhere)."""
    running = []
    everywhere = None

    def __init__(self, name, argv, env=None, cpu=RELAY_CPU):
        self.name, self.log = name, f"{WORK}/{name}.log"
        self.argv = [str(a) for a in argv]
        before = os.sched_getaffinity(0)
        with open(self.log, "wb") as log:
            # It inherits this; cheaper than a preexec_fn.
            os.sched_setaffinity(0, Program.everywhere or {cpu})
            try:
                self.began = time.monotonic()
                self.p = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=env, start_new_session=True)
            finally:
                os.sched_setaffinity(0, before)
        self.pid = self.p.pid
        Program.running.append(self)

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def check(self):
        if self.p.poll() is not None:
            raise BenchError(f"{self.name} ended ({self.p.returncode}): {self.text()[-500:].strip()}")

    def stop(self):
        pids = tree(self.pid)
        self.p.terminate()
        try:
            self.p.wait(2)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self in Program.running:
            Program.running.remove(self)

    @classmethod
    def stop_all(cls):
        for p in list(cls.running):
            p.stop()


def tree(pid):
    """The process and all below it."""
    found = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in f.read().split():
                    found += tree(int(child))
    except OSError:
        pass
    return found


def memory(pids, below=True):
    """Bytes of the processes, and of all below them: anonymous (their own), and resident."""
    own = rss = 0
    for root in pids:
        for pid in tree(root) if below else [root]:
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    kb = {a[0]: int(a[1]) for a in (line.split() for line in f) if a[-1] == "kB"}
            except OSError:
                continue
            own += kb["Pss_Anon:"] << 10
            rss += kb["Rss:"] << 10
    return own, rss


def wait_port(port, programs, limit=10, step=0.01):
    """Until somebody accepts there."""
    end = time.monotonic() + limit
    while True:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        for p in programs:
            p.check()
        if time.monotonic() > end:
            raise BenchError(f"{programs[-1].name}: nobody listens on {port}: {programs[-1].text()[-300:]}")
        time.sleep(step)


def load_argv(mode, relay, target, pids, **options):
    argv = [TOOLS + "/load", mode, "--connect", f"127.0.0.1:{relay}", "--listen", f"127.0.0.1:{target}"]
    for pid in pids:
        argv += ["--pid", pid]
    for name, value in options.items():
        for v in value if isinstance(value, list) else [value]:
            argv += ["--" + name.replace("_", "-"), f"{v * 1000:.0f}ms" if name in ("time", "warm", "grace") else v]
    return [str(a) for a in argv]


def load(mode, running, **options):
    """One run of the load generator against a running peer: its JSON, with "ok" and "said". Times in
    seconds."""
    seconds = 60 + options.get("time", 1)
    argv = load_argv(mode, running.port, running.target, running.pids, **options)
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"ok": False, "said": f"no end after {seconds:.0f} s"}
    try:
        result = json.loads(r.stdout)
    except ValueError:
        result = {}
    result["ok"] = r.returncode == 0
    result["said"] = r.stderr.strip().split("\n")[0]
    if "cpu" in result:
        result["halves"] = running.by_half(result.pop("cpu"))
    return result


class Idle:
    """A load generator that holds connections; its answers have the CPU of pids."""
    def __init__(self, running, most, pids=(), flags=(), **options):
        argv = load_argv("idle", running.port, running.target, pids, conns=most, **{"limit": "300s", **options})
        self.p = subprocess.Popen(argv + list(flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command):
        self.p.stdin.write(command + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()  # the limit above ends this, too
        if not line:
            raise BenchError(f"idle: {command}: the load generator ended")
        return json.loads(line)

    def end(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()


def settled(pids, below=True):
    """memory() once it does not change any more, or after 3 s."""
    last, end = None, time.monotonic() + 3
    while True:
        now = memory(pids, below)
        if now == last or time.monotonic() > end:
            return now
        last = now
        time.sleep(0.25)


def need_programs(names):
    missing = [n for n in names if not shutil.which(n) and not os.access(n, os.X_OK)]
    if missing:
        sys.exit(f"bench: not there: {' '.join(missing)}; run ./build.sh bench")
