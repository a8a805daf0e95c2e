"""What one seed of sync_random.py does: a plan, edits and faults, and the checks when all is at rest."""
import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback

import sync_checks as C
from sync_edits import DIRS, KEEP, Editor, Ledger, set_immutable
from sync_pair import ALPHA, BETA, SIDES, Ended, Failure, Pair

NOBODY = 65534
SMALL_DISK = 64 << 20
PATIENCE = 60  # seconds for what takes some ms on a quiet machine
MODES = ["two-way-safe"] * 9 + ["two-way-resolved"] * 5 + ["one-way-safe"] * 3 + ["one-way-replica"] * 3


class Plan:
    """What a seed does, as far as it is known before."""

    def __init__(self, seed):
        rng = random.Random(seed)
        self.seed, self.mode = seed, rng.choice(MODES)
        self.root = rng.random() < 0.5  # the workers run as root, or else as nobody
        self.fanotify = self.root and rng.random() < 0.5
        self.disk = [rng.random() < 0.5, rng.random() < 0.5]  # or a small tmpfs
        self.store_apart = rng.random() < 0.25  # on another filesystem: then .tstunnel-sync is used
        self.before, self.steps = rng.randrange(0, 40), rng.randrange(40, 160)
        kinds = ["cut", "kill", "kill", "kill-both", "stall", "stall", "full", "full", "denied", "denied", "fence", "fence"]
        self.faults = {}
        for _ in range(rng.choice([0, 1, 2, 3, 5])):
            self.faults[rng.randrange(self.steps)] = rng.choice(kinds)
        if rng.random() < 0.07:
            self.faults[rng.randrange(self.steps)] = "wipe"
        also = random.Random(f"{seed}/reset")  # of its own, so that the rest of each seed stays what it was
        if also.random() < 0.1 and self.mode != "one-way-safe":  # there, all that is beta's alone stays then
            self.faults.setdefault(also.randrange(self.steps), "reset")
        self.forgets = not {"wipe", "reset"}.isdisjoint(self.faults.values())
        self.pauses = rng.choice([[0], [0, 0, 0, 0.001, 0.005], [0.003, 0.02]])
        self.rng = rng

    def __str__(self):
        faults = " ".join(f"{k}@{n}" for n, k in sorted(self.faults.items()))
        return (f"seed {self.seed}: {self.mode}, {'root' if self.root else 'nobody'}{', fanotify' if self.fanotify else ''}, "
                f"disks {['tmpfs', 'disk'][self.disk[0]]} {['tmpfs', 'disk'][self.disk[1]]}"
                f"{', stores apart' if self.store_apart else ''}, {self.before}+{self.steps} edits; {faults or 'no faults'}")


class Run:
    def __init__(self, plan, work):
        self.plan, self.work, self.rng = plan, os.fsencode(work), plan.rng
        p = self.work
        self.roots, self.stores = [p + b"/a/root", p + b"/b/root"], [p + b"/a/store", p + b"/b/store"]
        if plan.store_apart:
            self.stores = [p + b"/store-a", p + b"/store-b"]
        self.scratch = [p + b"/a/scratch", p + b"/b/scratch"]
        self.lifts, self.disturbed, self.down = [], False, False
        self.reader = self.editor = None

    # -- before and after, as root ---------------------------------------------------------------------

    def make(self):
        """The folders; then the user whom all of the seed runs as."""
        libc = ctypes.CDLL(None, use_errno=True)
        self.small = [os.geteuid() == 0 and not disk for disk in self.plan.disk]
        for side, name in enumerate(b"ab"):
            d = self.work + b"/" + bytes([name])
            os.makedirs(d)
            if self.small[side] and libc.mount(b"tmpfs", d, b"tmpfs", 0, b"size=%d,mode=755" % SMALL_DISK) != 0:
                raise OSError(ctypes.get_errno(), "mount tmpfs")
        for d in [*self.roots, *self.scratch, self.work + b"/logs"]:
            os.makedirs(d, exist_ok=True)
        if os.geteuid() == 0 and not self.plan.root:
            for d in [self.work, self.work + b"/a", self.work + b"/b", *self.roots, *self.scratch, self.work + b"/logs"]:
                os.chown(d, NOBODY, NOBODY)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    # -- the story --------------------------------------------------------------------------------------

    def run(self):
        plan = self.plan
        self.ledger = Ledger()
        self.editor = Editor(plan.seed, self.roots, self.scratch, self.ledger, plan.mode.startswith("one-way"))
        self.editor.side, self.editor.rng = ALPHA, random.Random(plan.seed)
        self.editor.keep()
        for n in range(plan.before):
            self.editor.step(-1 - n)
        self.pair = Pair(os.fsdecode(self.work + b"/logs"), self.roots, self.stores, plan.mode, plan.fanotify, "ign-*\n")
        self.start_reader()
        self.pair.start()
        try:
            for n in range(plan.steps):
                if n in plan.faults:
                    self.fault(plan.faults[n], n)
                self.one(n)
            self.peace()
        finally:
            self.stop_reader()
            with contextlib.suppress(Exception):
                self.pair.end(1)

    def one(self, n):
        self.editor.step(n)
        while self.lifts and self.lifts[0][0] <= n:
            self.lifts.pop(0)[1]()
        pause = self.rng.choice(self.plan.pauses)
        if pause:
            time.sleep(pause)
        if not self.down and not self.pair.alive():
            self.over("while nothing was done to it")
            self.pair.start()

    def over(self, when):
        for w, what in self.pair.end():
            if w.code is not None and w.code > 0 and self.disturbed:
                continue  # a disk that is full is a reason to end
            raise Failure(f"the {SIDES[w.side]} worker {when}: {what}")

    def fault(self, kind, n):
        self.editor.note(f"== {kind}")
        getattr(self, "fault_" + kind.replace("-", "_"))(n)

    def later(self, n, lift):
        self.lifts.append((n + self.rng.randrange(3, 30), lift))
        self.lifts.sort(key=lambda x: x[0])

    def away(self, n, when):
        """The workers have been hit: both end; some edits later both start."""
        self.over(when)
        self.down = True

        def back():
            self.editor.note("== start")
            self.down = False
            if not self.pair.workers:
                self.pair.start()
        self.lifts.append((n + self.rng.choice([0, 0, 1, 5, 20]), back))
        self.lifts.sort(key=lambda x: x[0])

    def fault_cut(self, n):
        if not self.down:
            self.pair.cut()
            self.away(n, "after its connection was cut")

    def fault_kill(self, n):
        if not self.down:
            self.pair.workers[self.rng.randrange(2)].kill()
            self.away(n, "after the other was killed")

    def fault_kill_both(self, n):
        if not self.down:
            for w in self.pair.workers:
                w.kill()
            self.away(n, "killed")

    def fault_wipe(self, n):
        """Beta's machine is made anew, while both are away: another generation of roots."""
        if self.down:
            return
        self.pair.cut()
        self.over("after its connection was cut")
        self.lift_all()
        for full in C.files_below(self.roots[BETA]):
            self.ledger.destroyed(BETA, C.content(full))
        for k in self.ledger.held:
            self.ledger.gone.setdefault(k, set()).add(BETA)
        for d in (self.roots[BETA], self.stores[BETA]):
            shutil.rmtree(d, ignore_errors=True)
        os.mkdir(self.roots[BETA])
        self.pair.start()

    def fault_reset(self, n):
        """The sync forgets what both sides have agreed on; perhaps it is killed before it has merged them."""
        if self.down:
            return
        self.pair.tell({"reset": True})
        if self.rng.random() < 0.5:
            time.sleep(self.rng.choice([0.001, 0.01, 0.1]))
            self.fault_kill_both(n)

    def fault_stall(self, n):
        if not self.down:
            w = self.pair.workers[self.rng.randrange(2)]
            w.stop()
            self.later(n, w.go_on)

    def fault_full(self, n):
        small = [s for s in (ALPHA, BETA) if self.small[s]]
        if small:
            filler = os.path.join(os.path.dirname(self.roots[self.rng.choice(small)]), b"filler")
            fill(filler, self.rng.choice([0, 4096, 100000, 1000000]))
            self.disturbed = True
            self.later(n, lambda: quietly(os.unlink, filler))

    def fault_denied(self, n):
        side, path = self.rng.randrange(2), self.rng.choice(DIRS[1:])
        full = os.path.join(self.roots[side], path)
        self.editor.note(f"   {SIDES[side]}", path)
        self.disturbed = True
        if os.path.islink(full):
            return
        if self.plan.root:
            quietly(set_immutable, full, True)
            self.later(n, lambda: quietly(set_immutable, full, False))
        elif os.path.isdir(full):
            quietly(os.chmod, full, 0)
            self.ledger.touched[side].add(path)

    def lift_all(self):
        """No more faults: what the lifts have left undone, and every directory can be read."""
        for _, lift in self.lifts:
            lift()
        self.lifts = []
        for side, root in enumerate(self.roots):
            for top, dirs, _ in os.walk(root):
                for d in dirs:
                    full = os.path.join(top, d)
                    if self.plan.root:
                        quietly(set_immutable, full, False)
                    elif not os.path.islink(full) and is_locked(full):
                        quietly(os.chmod, full, 0o755)
                        self.ledger.touched[side].add(os.path.relpath(full, root))

    # -- rest -------------------------------------------------------------------------------------------

    def settle(self):
        """A fence that succeeds."""
        for _ in range(10):
            try:
                error = self.pair.fence(PATIENCE)
            except Ended:
                self.over("while it was to settle")
                self.pair.start()
                continue
            if error is None:
                return
            if "wipe" not in self.plan.faults.values():
                raise Failure(f"the fence failed: {error}; status: {json.dumps(self.pair.status)[:600]}")
            self.pair.tell({"proceed": True})
        raise Failure("no fence succeeded in 10 tries")

    def fault_fence(self, n):
        if self.down or self.disturbed or self.lifts:
            return
        self.settle()
        trees = self.agree("in the middle")
        for path, x in trees[ALPHA].items():
            y = trees[BETA].get(path)
            if y and x.kind == y.kind == "f" and x.what == y.what:
                self.ledger.saw(ALPHA, x.what)
                self.ledger.saw(BETA, x.what)

    def agree(self, when, timeout=5):
        """Both trees are equal but for what the status lists. It may be a moment late."""
        trees = [C.snapshot(r) for r in self.roots]
        diff = C.differences(trees, self.plan.mode, self.ledger)
        end = time.monotonic() + timeout
        while True:
            status, listed = self.pair.status or {}, self.pair.listed()
            too_many = max(status.get("conflicts_total", 0), status.get("problems_total", 0)) > 100  # not all are told
            left = {} if too_many else C.uncovered(diff, listed, trees)
            old = C.stale(listed, diff, trees)
            wrong = [] if self.plan.forgets else C.undeserved(listed, self.ledger.touched)
            odd = [] if self.disturbed and self.lifts else C.unexplained(listed, trees)
            if not left and not old and not odd and not wrong:
                return trees
            if time.monotonic() > end:
                break
            with contextlib.suppress(Failure):
                self.pair.next_status(0.2)
        if left:
            C.fail(f"fenced {when}, but not equal, and not listed:", (f"{C.name_of(p)}: {w}" for p, w in left.items()),
                   self.editor, left)
        if old:
            C.fail(f"{when}, listed as conflicts, but equal:", (f"{C.name_of(p)}: {listed[p]}" for p in old), self.editor, old)
        if wrong:
            C.fail(f"{when}, conflicts at what only one side has edited:", (f"{C.name_of(p)}: {listed[p]}" for p in wrong),
                   self.editor, wrong)
        C.fail(f"{when}, problems without a cause:", (f"{C.name_of(p)}: {w}" for p, w in odd), self.editor, [p for p, _ in odd])

    def peace(self):
        self.lift_all()
        if self.rng.random() < 0.5 or self.disturbed:  # what was seen as a problem is looked at again
            self.pair.cut()
            self.over("after its connection was cut")
            self.pair.start()
        self.settle()
        trees = self.agree("at the end")
        self.conserved("at the end", False)
        for what, found in (("strange names", C.strangers(trees)), ("no longer sparse", C.not_sparse(trees, self.ledger))):
            if found:
                C.fail(what, found)
        if self.plan.mode.startswith("one-way") and C.trash_of_alpha(self.roots, self.stores):
            C.fail("a one-way sync put to alpha's trash", C.trash_of_alpha(self.roots, self.stores))
        self.again(trees)
        self.resolve_all()
        reports = self.pair.reports()
        if reports:
            C.fail("sanitizer", reports)
        self.pair.cut()
        self.over("at the end")
        left = C.leftovers(self.roots, self.stores)
        if left:
            C.fail("left in a stage", left)

    def conserved(self, when, resolved):
        found = C.lost(self.ledger, self.plan.mode, self.roots, self.stores, resolved)
        if found:
            C.fail(f"lost, {when}:", (f"{k.hex()[:8]} ({self.ledger.names(k)}) {what}" for k, what in found), self.editor,
                   [p for k, _ in found for _, p in self.ledger.places[k]])

    def again(self, before):
        """A restart with nothing changed does nothing."""
        self.pair.cut()
        self.over("after its connection was cut")
        self.pair.start()
        self.settle()
        for side in (ALPHA, BETA):
            changed = C.same_files(before, side, C.snapshot(self.roots[side]), self.ledger)
            if changed:
                C.fail(f"changed at {SIDES[side]} by a restart with nothing to do", changed)
        done = (self.pair.status or {}).get("done") or {}
        if done.get("files") and not any(C.is_linked(e, s, self.ledger) for s, t in enumerate(before) for e in t.values()):
            raise Failure(f"a restart with nothing to do did something: {done}")
        self.agree("after a restart")

    def resolve_all(self):
        """Every conflict is resolved, one way or another."""
        conflicts = [p for p, why in self.pair.listed().items() if why.startswith("conflict")]
        trees = [C.snapshot(r) for r in self.roots]
        asked = 0
        for path in sorted(conflicts):
            if any(t[q].kind == "o" or C.is_ignored(q) for t in trees for q in t if q == path or q.startswith(path + b"/")) or \
                    any(p in conflicts for p in C.above(os.path.dirname(path))):
                continue
            keep = self.rng.choice(["local", "remote", "both"] if path != KEEP else ["local"])
            self.editor.note(f"== resolve, keep {keep}", path)
            error = self.pair.resolve(path, keep, PATIENCE)
            if error:
                C.fail(f"resolve {C.name_of(path)}, keep {keep}: {error}", [], self.editor, [path])
            asked += 1
        if asked:
            self.settle()
            trees = self.agree("after the conflicts were resolved")
            self.conserved("after the conflicts were resolved", True)

    # -- the reader -------------------------------------------------------------------------------------

    def start_reader(self):
        r, w = os.pipe()
        self.reader = os.fork()
        if self.reader == 0:
            try:
                os.close(r)
                C.read_always(self.roots, w, () if "wipe" in self.plan.faults.values() else (ALPHA, BETA))
            except BaseException:
                os.write(w, traceback.format_exc().encode())
            os._exit(1)
        os.close(w)
        self.seen = r

    def stop_reader(self):
        os.kill(self.reader, signal.SIGKILL)
        os.waitpid(self.reader, 0)
        said = b""
        while chunk := os.read(self.seen, 65536):
            said += chunk
        os.close(self.seen)
        if said and not sys.exc_info()[0]:
            C.fail("a reader saw what must not be seen:", said.decode(errors="replace").splitlines())


def is_locked(full):
    with contextlib.suppress(FileNotFoundError):
        return os.lstat(full).st_mode & 0o700 != 0o700
    return False


def quietly(f, *args):
    with contextlib.suppress(OSError):
        f(*args)


def fill(path, spare):
    """Takes all the room there is, but for so many bytes."""
    st = os.statvfs(os.path.dirname(path))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, max(1, st.f_bavail * st.f_bsize - spare))
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)
