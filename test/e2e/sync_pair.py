"""The two workers of a sync, joined by socketpairs: no tunnel, no programs around them. What tsctl and
guest do for them (docs/sync.md, "Control") is done here: start both, and both anew when one is lost."""
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import time
import urllib.parse

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
BIN = os.path.abspath(os.environ.get("TSTUNNEL_BIN") or os.path.join(ROOT, "bin"))
ALPHA, BETA = 0, 1
SIDES = ("alpha", "beta")


class Failure(Exception):
    """Something that must not be."""


class Ended(Exception):
    """A worker is gone."""


def path_of(text):
    """A path as the control lines write it, in bytes."""
    return urllib.parse.unquote_to_bytes(text.encode())


def text_of(path):
    """The reverse of path_of. Bytes that are no UTF-8, and %, as %XX."""
    out = ""
    for c in path.decode("utf-8", "surrogateescape"):
        out += f"%{ord(c) - 0xdc00:02X}" if 0xdc80 <= ord(c) <= 0xdcff else ("%25" if c == "%" else c)
    return out


class Worker:
    def __init__(self, side, argv, fds, log):
        """fds: {number there: descriptor here}."""
        self.side, self.log, self.code, self.killed, self.stopped = side, log, None, False, False
        err = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        actions = [(os.POSIX_SPAWN_DUP2, err, 2)]
        # Out of the way of 0..3 first: one of them may be what another is to become.
        high = {n: _dup_above(fd, 10) for n, fd in fds.items()}
        actions += [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in high.items()]
        env = {k: v for k, v in os.environ.items() if k.startswith(("ASAN", "UBSAN", "LSAN"))}
        self.pid = os.posix_spawn(argv[0], argv, dict(env, LC_ALL="C", PATH="/usr/bin:/bin"), file_actions=actions)
        for fd in [err, *high.values()]:
            os.close(fd)

    def poll(self):
        """The exit code (negative: the signal), None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def signal(self, signo):
        if self.poll() is None:
            os.kill(self.pid, signo)

    def stop(self):
        self.stopped = True
        self.signal(signal.SIGSTOP)

    def go_on(self):
        """Only one that was stopped: SIGCONT takes back the stop of a debugger, too, and the leak sanitizer is
        one while a worker ends, and waits for ever then."""
        if self.stopped:
            self.stopped = False
            self.signal(signal.SIGCONT)

    def kill(self):
        self.killed = True
        self.signal(signal.SIGKILL)

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        return self.poll()

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()


def _dup_above(fd, least):
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


class Pair:
    def __init__(self, logs, roots, stores, mode, fanotify=False, ignore="", **more):
        self.logs, self.roots, self.stores = logs, roots, stores
        self.config = {"id": "0123456789abcdef" * 2, "root": os.fsdecode(roots[ALPHA]), "store": os.fsdecode(stores[ALPHA]),
                       "mode": mode, "ignore": ignore, "masks": [], "halt": True, "fanotify": fanotify,
                       "far": {"root": os.fsdecode(roots[BETA]), "make": False, "in_place": False}, **more}
        self.workers, self.socks, self.ctl = [], [], None
        self.status, self.statuses, self.answers, self.serial, self.starts = None, 0, {}, 0, 0

    # -- life -----------------------------------------------------------------------------------------

    def start(self):
        assert not self.workers
        self.starts += 1
        up, down, ctl = socket.socketpair(), socket.socketpair(), socket.socketpair()
        self.status, self.unread, self.answers = None, b"", {}
        far = [BIN + "/guest", "sync-worker", os.fsdecode(self.roots[BETA]), os.fsdecode(self.stores[BETA])]
        near = {0: down[1].fileno(), 1: up[0].fileno(), 3: ctl[1].fileno()}
        self.workers = [Worker(ALPHA, [BIN + "/tsctl", "sync-worker"], near, self.logs + "/alpha.log"),
                        Worker(BETA, far, {0: up[1].fileno(), 1: down[0].fileno()}, self.logs + "/beta.log")]
        # One end of each is kept, so that the connection can be cut. They are of the same socket: a
        # worker that dies is not seen by the other until then, so run() looks after both.
        self.socks = [up[0], down[0]]
        for s in (up[1], down[1], ctl[1]):
            s.close()
        self.ctl = ctl[0]
        self.ctl.setblocking(False)
        self.tell(self.config)

    def alive(self):
        return bool(self.workers) and all(w.poll() is None for w in self.workers)

    def cut(self):
        """The connection is lost: whatever is under way comes, and then the end."""
        for s in self.socks:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def end(self, patience=20):
        """Waits until both have ended, as they must once one has, or the connection. Returns the
        workers that had to be killed or ended by themselves with a failure."""
        self.cut()
        odd = []
        for w in self.workers:
            w.go_on()
        for w in self.workers:
            if w.wait(patience) is None:
                w.kill()
                w.wait(10)
                odd.append((w, "did not end when its connection did"))
            elif not w.killed and w.code != 0:
                odd.append((w, f"ended with {w.code}: {w.said()[-600:].strip()}"))
        if self.ctl:
            self._read()
            self.ctl.close()
        for s in self.socks:
            s.close()
        self.workers, self.socks, self.ctl = [], [], None
        return odd

    # -- control --------------------------------------------------------------------------------------

    def tell(self, line):
        with contextlib.suppress(OSError):
            self.ctl.setblocking(True)
            self.ctl.sendall(json.dumps(line).encode() + b"\n")
            self.ctl.setblocking(False)

    def _read(self):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while data := self.ctl.recv(1 << 18):
                self.unread += data
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                raise Failure(f"a control line that is no JSON: {line[:500]!r}") from None
            if "status" in said:
                self.status = said["status"]
                self.statuses += 1
            for kind in ("fenced", "resolved"):
                if kind in said:
                    self.answers[kind, said[kind]] = said

    def wait(self, condition, timeout, what):
        """condition() asked after each control line. Ended if a worker ends before."""
        deadline = time.monotonic() + timeout
        while True:
            self._read()
            value = condition()
            if value:
                return value
            if not self.alive():
                raise Ended()
            left = deadline - time.monotonic()
            if left < 0:
                raise Failure(f"{what}: not within {timeout} s; status: {json.dumps(self.status)[:1500]}")
            select.select([self.ctl], [], [], min(0.05, left))

    def ask(self, kind, answer, line, key, timeout):
        self.serial += 1
        self.tell(dict(line, **{key: self.serial}))
        n = self.serial
        said = self.wait(lambda: self.answers.pop((answer, n), None), timeout, kind)
        return said.get("error")

    def fence(self, timeout=60):
        """None, or why it failed."""
        return self.ask("fence", "fenced", {}, "fence", timeout)

    def resolve(self, path, keep, timeout=60):
        return self.ask("resolve", "resolved", {"resolve": text_of(path), "keep": keep}, "n", timeout)

    def next_status(self, timeout=10):
        seen = self.statuses
        self.wait(lambda: self.statuses > seen, timeout, "another status")

    def listed(self):
        """{path: why} of the conflicts and problems of the last status."""
        s = self.status or {}
        found = {path_of(c["path"]): "conflict: " + (c.get("reason") or "") for c in s.get("conflicts") or []}
        for p in s.get("problems") or []:
            found.setdefault(path_of(p["path"]), f"problem at {p.get('side')}: {p.get('why')}")
        return found

    def reports(self):
        """What a sanitizer said."""
        found = []
        for side in SIDES:
            with contextlib.suppress(FileNotFoundError), open(f"{self.logs}/{side}.log", errors="replace") as f:
                found += [f"{side}: {line.strip()}" for line in f if "Sanitizer" in line or "runtime error:" in line]
        return found
