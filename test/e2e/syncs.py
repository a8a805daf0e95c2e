"""What the tests of tsctl sync share."""
import contextlib
import json
import os
import shutil

import pytest
from daemon import Daemon
from forwards import url
from lab import wait_for

FLUSH_S = 60


def write(path, text="", mode=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    if mode is not None:
        os.chmod(path, mode)


def read(path):
    with open(path) as f:
        return f.read()


def tree(top):
    """What is below a directory: kind, mode and content (of a file also the time) by path."""
    found = {}
    for dir, dirs, files in os.walk(top):
        if ".tstunnel-sync" in dirs:
            dirs.remove(".tstunnel-sync")
        for name in dirs + files:
            path = os.path.join(dir, name)
            st = os.lstat(path)
            what = ["link", os.readlink(path)] if os.path.islink(path) else \
                ["dir", st.st_mode] if os.path.isdir(path) else \
                ["file", st.st_mode, st.st_mtime_ns, open(path, "rb").read()]
            found[os.path.relpath(path, top)] = what
    return found


class Syncs(Daemon):
    """tsctl sync with a directory on each host: a here, b there (all hosts of the lab see one disk)."""
    word = "sync"

    def __init__(self, lab, guest, keep):
        super().__init__(lab)
        self.guest, self.keep = guest, keep
        self.a, self.b = self.dir + "/a", self.dir + "/b"
        os.mkdir(self.a)
        self.state = self.state_dir + "/tstunnel/syncs.json"

    def url(self, path=None, **params):
        return url(self.lab, (path or self.b).lstrip("/"), guest=self.guest, **params)

    def create(self, *flags, a=None, b=None):
        """Its id."""
        return self("create", a or self.a, self.url(b), *flags).strip()

    def flush(self, name="--all"):
        self("flush", name, "--timeout", FLUSH_S, timeout=FLUSH_S + 30)

    def list(self):
        return json.loads(self("list", "--json"))

    def one(self):
        """The one sync that there is."""
        found = self.list()
        assert len(found) == 1, found
        return found[0]

    def is_(self, state, timeout=30):
        """Waits for a state; the sync then."""
        def there():
            one = self.one()
            return one if one["state"] == state else None
        try:
            return wait_for(there, timeout, f"state {state}")
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.one()}\n{self.text()}") from None

    def alike(self):
        """All is on both sides, byte for byte."""
        self.flush()
        here, there = tree(self.a), tree(self.b)
        assert here == there, [(p, here.get(p), there.get(p)) for p in sorted(here.keys() | there.keys()) if here.get(p) != there.get(p)]
        return here

    def workers(self):
        """Pids of the workers here, and there."""
        found = [[], []]
        for side, parent in enumerate((self.pid(), self.guest.pid)):
            for pid in children(parent):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if b"sync-worker" in open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0"):
                        found[side].append(pid)
        return found


def children(pid):
    with contextlib.suppress(FileNotFoundError):
        return [int(p) for p in open(f"/proc/{pid}/task/{pid}/children").read().split()]
    return []


@pytest.fixture
def keep(lab):
    """Where a guest of the test keeps its things."""
    dir = lab.path("guest-" + lab.name())
    os.makedirs(dir)
    yield dir
    shutil.rmtree(dir)


def start_guest(lab, keep, *flags, port=None):
    return lab.start_guest("--state-dir", keep + "/state", "--sync-root", keep + "/root", *flags, port=port)


@pytest.fixture
def sy(lab, keep):
    s = Syncs(lab, start_guest(lab, keep), keep)
    yield s
    s.end()
