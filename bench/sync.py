#!/usr/bin/python3
"""The bench of file sync; ./build.sh bench sync calls it, bench/README.md explains it."""
import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers as P  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
import sync_peers as S  # noqa: E402
import sync_report  # noqa: E402
import sync_trees as T  # noqa: E402
from rig import WORK, BenchError, Program  # noqa: E402

TREES = WORK + "/trees"


class Plan:
    def __init__(self, quick):
        self.quick = quick
        self.files, self.large_mb, self.many = (2000, 64, 20000) if quick else (20000, 512, 200000)
        self.rounds = 1 if quick else 3
        self.edits = 20 if quick else 50


def say(text):
    print(text, flush=True)


def median(values):
    return statistics.median(values) if values else None


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    def __init__(self, plan):
        self.plan, self.serial = plan, 0
        self.results = {"meta": report.machine(plan.quick), "files": plan.files, "large_mb": plan.large_mb, "many": plan.many,
                        "failed": {}}
        self.results["meta"]["versions"] = [report.first_line("rsync", "--version"), report.first_line("unison", "-version"),
                                            report.first_line("ssh", "-V"), report.first_line("git", "--version")]

    def put(self, question, who, value, *more):
        d = self.results.setdefault(question, {}).setdefault(who, {})
        for key in more:
            d = d.setdefault(str(key), {})
        d.setdefault("runs", []).append(value)

    def there(self):
        self.serial += 1
        return f"{TREES}/there{self.serial}"

    def attempt(self, who, what, work):
        """work(); a failure is told and noted, and the others go on."""
        try:
            return work()
        except (BenchError, OSError, subprocess.TimeoutExpired, StopIteration, ValueError) as e:
            self.results["failed"].setdefault(who, f"{what}: {' '.join(str(e).split())[:300]}")
            say(f"  {who}, {what}: {e!r}"[:600])
            return None

    # -- initial sync ------------------------------------------------------------------------------

    def initial(self, here, size, rounds, keep, last_only=()):
        """All peers in turn; those that keep names stay as they are after the last round."""
        kept = {}
        for i in range(rounds):
            for peer in (S.Tar, S.Rsync, S.Unison, S.Ours):
                if peer in last_only and i < rounds - 1:
                    continue

                def once(peer=peer, last=i == rounds - 1):
                    p = peer(here, self.there())
                    before = S.wire()
                    self.put("initial", peer.name, timed(p.begin), size)
                    self.put("initial-wire", peer.name, S.wire() - before, size)
                    why = T.why_not_same(here, p.there)
                    if why:
                        raise BenchError(f"not the same afterwards: {why}")
                    if last and peer in keep:
                        kept[peer] = p
                    else:
                        p.end()
                        T.remove(p.there)
                self.attempt(peer.name, f"initial sync of {size}", once)
        for who, by_size in self.results.get("initial", {}).items():
            say(f"  initial, {size}: {who} {median(by_size.get(str(size), {}).get('runs', []))} s")
        return kept

    # -- one edit ----------------------------------------------------------------------------------

    def edit(self, here, n, rng):
        path = f"dir{rng.randrange(200) % self.dirs:03d}"
        names = sorted(os.listdir(f"{here}/{path}"))
        path += "/" + rng.choice(names)
        data = b"edit %d\n" % n + rng.randbytes(2000)
        return path, data

    def edits_of_tool(self, tool, size, n):
        rng = random.Random(f"{tool.name} {size}")
        tool.sync()
        for i in range(n):
            path, data = self.edit(tool.here, i, rng)
            with open(f"{tool.here}/{path}", "wb") as f:
                f.write(data)
            self.put("edit", tool.name, timed(tool.sync), size)
            with open(f"{tool.there}/{path}", "rb") as f:
                if f.read() != data:
                    raise BenchError("an edit did not arrive")

    def edits_of_ours(self, ours, size):
        """A tight loop reads the other side's file until it is the new one."""
        rng = random.Random(f"{ours.name} {size}")
        for i in range(self.plan.edits):
            path, data = self.edit(ours.here, i, rng)
            began = time.perf_counter()
            with open(f"{ours.here}/{path}", "wb") as f:
                f.write(data)
            while True:
                fd = os.open(f"{ours.there}/{path}", os.O_RDONLY)
                there = os.read(fd, 4096)
                os.close(fd)
                took = time.perf_counter() - began
                if there == data:
                    break
                os.sched_yield()  # there are more workers than cores
                if took > 20:
                    raise BenchError(f"an edit is not there after 20 s: {ours.status()}")
            self.put("edit", ours.name, took, size)
            time.sleep(rng.uniform(0.005, 0.03))

    # -- the large file ----------------------------------------------------------------------------

    def large(self, tool, rounds):
        rng = random.Random(tool.name)  # what is changed must be new to every tool
        large, there = f"{tool.here}/large", f"{tool.there}/large"
        tool.sync()
        for how in ("write", "append", "insert"):
            for _ in range(rounds):
                change = T.change_large(large, how, f"{TREES}/aside", rng)
                before = S.wire()
                if isinstance(tool, S.Ours):
                    began = time.perf_counter()
                    change()
                    want = os.stat(large)
                    while True:
                        st = os.stat(there)
                        took = time.perf_counter() - began
                        if (st.st_mtime_ns, st.st_size) == (want.st_mtime_ns, want.st_size):
                            break
                        if took > 60:
                            raise BenchError(f"{how}: not there after 60 s: {tool.status()}")
                    tool.sync()
                else:
                    change()
                    took = timed(tool.sync)
                self.put("large", tool.name, (took, S.wire() - before), how)
            if T.digest(large) != T.digest(there):
                raise BenchError(f"{how}: other content afterwards")

    # -- restart -----------------------------------------------------------------------------------

    def restart_of_ours(self, ours, size):
        for _ in range(self.plan.rounds):
            time.sleep(1.1)  # one that ends in its first second is taken for broken, and the next one waits
            pid, _ = ours.workers()
            os.kill(pid, signal.SIGKILL)
            self.put("restart", ours.name, ours.wait_watching(pid), size, "worker killed")
        for _ in range(self.plan.rounds):
            pid, _ = ours.workers()
            ours.guest.stop()
            ours.start_guest()
            self.put("restart", ours.name, ours.wait_watching(pid), size, "guest killed")
        ours.sync()

    def memory(self, ours, size):
        entries = len(T.listing(ours.here)) if size else 0
        pids = ours.workers()
        time.sleep(0 if self.plan.quick else 5)  # buffers are given back when nothing came or went for 2 to 4 s
        if None not in pids:
            self.results.setdefault("memory", {})[str(size)] = {"entries": entries, "bytes": [rig.settled([pid])[1] for pid in pids]}

    # -- forwarding meanwhile ----------------------------------------------------------------------

    def forwarding(self, ours, size):
        """Ping-pong through the same tunnel: alone, and while both sides are looked at anew."""
        port, target = rig.ports(2)
        ours.tsctl("forward", "create", "--name", "bench", f"tcp:127.0.0.1:{port}",
                   f"tstunnel://127.0.0.1:{ours.port}/tcp:127.0.0.1:{target}{P.QUERY_TLS}")
        running = P.Running(port, target, [])
        for _ in range(self.plan.rounds):
            self.put("forwarding", "alone", rig.load("ping", running, conns=1, time=0.5, warm=0.1), size)
            pid, _ = ours.workers()
            os.kill(pid, signal.SIGKILL)
            while ours.workers()[0] in (None, pid):
                time.sleep(0.001)
            self.put("forwarding", "scan", rig.load("ping", running, conns=1, time=0.4, warm=0.01), size)
            ours.wait_watching(pid)
        ours.tsctl("forward", "terminate", "bench")

    # -- git checkout ------------------------------------------------------------------------------

    def checkout(self):
        here = TREES + "/repository"
        T.make_repository(here, self.plan.files)
        for peer in (S.Rsync, S.Unison, S.Ours):
            def one(peer=peer):
                p = peer(here, self.there())
                if peer is S.Ours:
                    p.begin("--ignore-vcs")
                else:
                    p.sync(ignore_vcs=True)
                for _ in range(self.plan.rounds):
                    for branch in ("two", "one"):
                        before = S.wire()

                        def both(branch=branch):
                            T.git(here, "checkout", "-q", branch)
                            p.sync(ignore_vcs=True)
                        self.put("checkout", peer.name, timed(both))
                        self.put("checkout-wire", peer.name, S.wire() - before)
                        why = T.why_not_same(here, p.there)
                        if why:
                            raise BenchError(f"not the same afterwards: {why}")
                p.end()
                T.remove(p.there)
            self.attempt(peer.name, "git checkout", one)
        for branch in ("two", "one"):
            self.put("checkout", "git alone", timed(lambda b=branch: T.git(here, "checkout", "-q", b)))
        T.remove(here)

    # -- the whole ---------------------------------------------------------------------------------

    def empty_and_small(self):
        for size in (0, 100):
            here = f"{TREES}/here{size}"
            self.dirs = 4
            T.make(here, size, self.dirs) if size else os.makedirs(here)

            def one(here=here, size=size):
                ours = S.Ours(here, self.there())
                ours.begin()
                if size:
                    self.edits_of_ours(ours, size)
                else:
                    self.memory(ours, 0)
                ours.end()
            self.attempt(S.Ours.name, f"tree of {size}", one)

    def tree(self, size, large_mb, rounds, tool_runs):
        here = f"{TREES}/here{size}"
        self.dirs = 200
        T.make(here, size)
        if large_mb:
            T.add_large(here + "/large", large_mb)
        kept = self.initial(here, size, rounds, (S.Rsync, S.Unison), (S.Rsync, S.Unison) if not large_mb else ())
        for tool in kept.values():
            def of_tool(tool=tool):
                self.edits_of_tool(tool, size, tool_runs)
                for _ in range(tool_runs):
                    self.put("restart", tool.name, timed(tool.sync), size, "run")
                if large_mb:
                    self.large(tool, 1 if isinstance(tool, S.Unison) else rounds)
            self.attempt(tool.name, f"after the initial sync of {size}", of_tool)
            T.remove(tool.there)

        def of_ours():
            ours = S.Ours(here, self.there())
            ours.begin()
            self.edits_of_ours(ours, size)
            self.memory(ours, size)
            if large_mb:
                self.large(ours, rounds)
            self.restart_of_ours(ours, size)
            if not large_mb:
                self.forwarding(ours, size)
            why = T.why_not_same(here, ours.there)
            if why:
                raise BenchError(f"not the same at the end: {why}")
            ours.end()
        self.attempt(S.Ours.name, f"after the initial sync of {size}", of_ours)
        T.remove(*[f"{TREES}/{d}" for d in os.listdir(TREES)])

    def all(self, wanted):
        began = time.monotonic()
        plan = self.plan
        for name, work in (("small", self.empty_and_small),
                           ("tree", lambda: self.tree(plan.files, plan.large_mb, plan.rounds, 3)),
                           ("checkout", self.checkout),
                           ("many", lambda: self.tree(plan.many, 0, plan.rounds, 1 if plan.quick else 2))):
            if name in wanted:
                at = time.monotonic()
                say(f"== {name}")
                work()
                say(f"   {time.monotonic() - at:.0f} s")
        self.results["meta"]["minutes"] = (time.monotonic() - began) / 60


PARTS = ("small", "tree", "checkout", "many")


def main():
    a = argparse.ArgumentParser(prog="bench/sync.py", description="Measures file sync beside rsync, unison and tar over ssh.")
    a.add_argument("--quick", action="store_true", help="under 1 minute: smaller trees, one round")
    a.add_argument("--out", metavar="DIR", help="where RESULTS.md is that gets the section (default bench/; with --only nowhere)")
    a.add_argument("--only", metavar="LIST", help=",".join(PARTS))
    a.add_argument("--render", metavar="FILE", help="no measuring: the section of an earlier raw file")
    o = a.parse_args()
    raw = os.path.dirname(rig.TOOLS) + "/bench-sync-raw.json"
    if o.render:
        with open(o.render) as f:
            results = json.load(f)
    else:
        wanted = o.only.split(",") if o.only else list(PARTS)
        if set(wanted) - set(PARTS):
            sys.exit(f"bench: no part {(set(wanted) - set(PARTS)).pop()}; there are: {' '.join(PARTS)}")
        others = wanted != ["small"]
        rig.need_programs([rig.BIN + "/tsctl", rig.BIN + "/guest"])
        if others:
            rig.need_programs([rig.TOOLS + "/load", "rsync", "unison", "ssh", "git", "tar"])
        rig.enter()
        os.sched_setaffinity(0, rig.CPUS)
        Program.everywhere = rig.CPUS
        try:
            rig.hold_memory(512 if o.quick else 3072)
            P.make_keys()
            os.makedirs(TREES)
            if others:
                S.Ssh.start()
            bench = Bench(Plan(o.quick))
            bench.attempt(S.Ours.name, "start", S.Ours.start_guest)
            bench.all(wanted)
            results = bench.results
        finally:
            S.Ours.stop_daemon()
            Program.stop_all()
        with open(raw, "w") as f:
            json.dump(results, f)
    text = sync_report.render(results)
    print(text)
    out = o.out or (None if o.only else rig.HERE)
    if out:
        report.put_section(out + "/RESULTS.md", sync_report.TITLE, text)
        print(f"written: {out}/RESULTS.md, section {sync_report.TITLE[3:]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        Program.stop_all()
        sys.exit(130)
