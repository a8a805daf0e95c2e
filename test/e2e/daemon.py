"""tsctl's daemon, with a runtime directory and a state of its own, and the commands that ask it."""
import contextlib
import os
import shutil
import signal

from lab import BIN, run, wait_for


def is_tsctl(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = open(f"/proc/{pid}/stat").read()
        return "(tsctl)" in stat and ") Z " not in stat
    return False


class Daemon:
    """tsctl WORD, and the daemon behind it."""
    word = ""

    def __init__(self, lab):
        self.lab, self.dir = lab, lab.path("daemon-" + lab.name())
        self.run_dir, self.state_dir = self.dir + "/run", self.dir + "/state"
        os.makedirs(self.run_dir, 0o700)
        self.env = dict(lab.env, XDG_RUNTIME_DIR=self.run_dir, XDG_STATE_HOME=self.state_dir)
        self.lock, self.log = (f"{self.run_dir}/tstunnel/daemon.{x}" for x in ("lock", "log"))
        self.socket = self.run_dir + "/tstunnel/daemon.sock"
        self.pids = set()

    def argv(self, *args):
        return [BIN + "/tsctl", self.word] + [str(a) for a in args]

    def try_(self, *args, **kw):
        kw.setdefault("timeout", 60)
        r = run(*self.argv(*args), env=self.env, check=False, **kw)
        self.pids |= {self.pid()} - {0}
        return r

    def __call__(self, *args, **kw):
        """What it printed; it must succeed."""
        r = self.try_(*args, **kw)
        assert r.returncode == 0, (args, r.stderr, self.text())
        return r.stdout

    def fails(self, *args, status=1, **kw):
        """The error message."""
        r = self.try_(*args, **kw)
        assert r.returncode == status, (args, r.stdout, r.stderr)
        assert r.stdout == "" and r.stderr.startswith("Error: "), (r.stdout, r.stderr)
        return r.stderr

    def pid(self):
        """The daemon's, 0 if none runs."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int(open(self.lock).read())
            if is_tsctl(pid):
                return pid
        return 0

    def ended(self):
        wait_for(lambda: self.pid() == 0, what="the daemon ends")

    def kill(self, signo=signal.SIGKILL):
        pid = self.pid()
        assert pid
        os.kill(pid, signo)
        self.ended()

    def text(self):
        with contextlib.suppress(FileNotFoundError):
            return open(self.log).read()
        return ""

    def end(self):
        """At the end of a test: no daemon, nothing left."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                if is_tsctl(pid):
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGINT)  # at once
        self.ended()
        assert "Sanitizer" not in self.text() and "runtime error" not in self.text()
        shutil.rmtree(self.dir)
