#!/usr/bin/python3
"""The bench of sandboxes; ./build.sh bench sandbox calls it, bench/README.md explains it."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import questions as Q  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402
import sandbox_peers as S  # noqa: E402
import sandbox_report  # noqa: E402
from questions import say  # noqa: E402
from rig import BenchError, Program  # noqa: E402


class Plan:
    def __init__(self, quick):
        self.quick = quick
        self.rounds = 2 if quick else 3
        self.time = 0.2 if quick else 0.5
        self.warm = 0.1 if quick else 0.15
        self.tunnels = 100 if quick else 500
        self.banner_rounds = 1 if quick else 2
        self.queue = 25 if quick else 100  # an sshd has room for 128 that it has not accepted yet, and loses others
        self.sessions = 5 if quick else 25
        self.containers = 2 if quick else 20
        self.asking = (1, 16, 64)

    def late(self):  # questions.rounds asks
        return False


def tunnel(plan, results):
    """Bytes through one hop, on one core; the load generator has another."""
    def ask(peer, running):
        for way in ("up", "down"):
            for n in (1, 8):
                Q.put(results, "tunnel", peer, f"{way}/{n}", rig.load(way, running, conns=n, time=plan.time, warm=plan.warm,
                                                                     **through(running)))
    Q.rounds(plan, "tunnel", S.TUNNELS, plan.rounds, ask)


def through(running):
    return {"through": running.through} if hasattr(running, "through") else {}


def burst(plan, results):
    """All opened at once, each used for a byte there and back. Once for each peer also the memory of those
    that are held, after that and when they were opened 64 at a time."""
    def once(peer, running):
        hold(plan, results, "held", peer, running, 64, remember=True)

    def ask(peer, running):
        hold(plan, results, "burst", peer, running, plan.tunnels + 1,
             remember=not plan.quick and peer.name not in results.get("burst", {}))
    Q.rounds(plan, "held", S.TUNNELS, 1, once)
    Q.rounds(plan, "burst", S.TUNNELS, plan.rounds, ask)


def hold(plan, results, question, peer, running, at_once, *flags, condition="run", remember=False):
    n = plan.tunnels + 1
    # 1 is the runner: all that was started is below it, also what its parent has left
    h = rig.Idle(running, n, [*running.pids, 1], flags, at_once=at_once, limit="60s", **through(running))
    near = [p.pid for p in running.near]
    try:
        h.tell("hold 1")  # what only the first costs belongs to the program at rest
        rest = rig.settled(near, below=False)[0] if remember else 0
        run = h.tell(f"hold {n}")
        run["cpu_all"] = run["cpu"].pop()
        run["halves"] = running.by_half(run.pop("cpu"))
        run["ok"] = run["held"] == n and run["failed"] == 0
        if not run["ok"]:
            raise BenchError(f"{run['held']} of {n} held")
        if remember:
            time.sleep(1.2)  # ours gives back what a storm left after a second
            run["memory"] = (rig.settled(near, below=False)[0] - rest) / plan.tunnels
        h.tell("close")
        Q.put(results, question, peer, condition, run)
    finally:
        h.end()


def banners(plan, results):
    """The same with real sshds, a process or two each; all cores for all."""
    def ask(peer, running):
        hold(plan, results, "banners", peer, running, plan.queue, "--banner", condition=f"{plan.queue} at a time")
        if not running.far:
            hold(plan, results, "banners", peer, running, plan.tunnels + 1, "--banner", condition="all at once")
    everywhere(True)
    try:
        Q.rounds(plan, "banners", S.BANNERS, plan.banner_rounds, ask)
    finally:
        everywhere(False)


def everywhere(on):
    Program.everywhere = rig.CPUS if on else None
    os.sched_setaffinity(0, rig.CPUS if on else {rig.LOAD_CPU})


def health(plan, results):
    """GET /health on one core."""
    def ask(peer, running):
        for n in plan.asking:
            Q.put(results, "health", peer, n, rig.load("http", running, conns=n, time=plan.time, warm=plan.warm, path="/health"))
    Q.rounds(plan, "health", S.HEALTH, plan.rounds, ask)


def interleaved(results, makers, n):
    """once() of each in turn, n times; a first one of each is not counted."""
    actors = []
    try:
        for make in makers:
            try:
                actors.append(make())
            except BenchError as e:
                fault(results, make, e)
        for i in range(n + 1):
            for a in list(actors):
                try:
                    run = a.once()
                except (BenchError, OSError, subprocess.TimeoutExpired) as e:
                    fault(results, a.name, e)
                    actors.remove(a)
                    a.stop()
                    continue
                if i > 0:
                    results.setdefault("first", {}).setdefault(a.name, []).append(run)
    finally:
        for a in actors:
            a.stop()


def fault(results, who, e):
    why = " ".join(str(e).split())[:300]
    say(f"  {who}: {why}")
    results["failed"].append(f"{who if isinstance(who, str) else 'a peer'}: {why}")


def first(plan, results):
    """A sandbox made, until ssh's first output."""
    everywhere(True)
    try:
        interleaved(results, [S.Floor, lambda: S.Session("process", "ssh"), lambda: S.Session("process", "test-tunnel")], plan.sessions)
        say("  first: process")
        try:
            engine = S.Engine()
        except BenchError as e:
            fault(results, "docker", e)
            return
        try:
            interleaved(results, [lambda: S.DockerRun(engine, False), lambda: S.DockerRun(engine, True),
                                  lambda: S.Session("docker", "ssh", "--docker", engine.host)], plan.containers)
        finally:
            engine.stop()
    finally:
        everywhere(False)


# docker's comes last: its rules make every connection a little slower.
QUESTIONS = {"tunnel": tunnel, "burst": burst, "health": health, "banners": banners, "first": first}


def only(those):
    for peers in (S.TUNNELS, S.HEALTH, S.BANNERS):
        peers[:] = [p for p in peers if those(p)]


def measure(plan, wanted):
    results = {"meta": report.machine(plan.quick), "failed": [], "tunnels": plan.tunnels, "queue": plan.queue}
    results["meta"]["versions"] = [report.first_line("haproxy", "-v"), report.first_line("nginx", "-v"), report.first_line("tinyproxy", "-v"),
                                   report.first_line("ssh", "-V"), report.first_line("docker", "--version")]
    for program in ("haproxy", "nginx", "tinyproxy"):
        if not shutil.which(program) and any(p.name.startswith(program) for p in S.TUNNELS + S.HEALTH + S.BANNERS):
            results["failed"].append(f"{program}: not there")
            only(lambda p, program=program: not p.name.startswith(program))
    began = time.monotonic()
    for name, ask in QUESTIONS.items():
        if name in wanted:
            at = time.monotonic()
            say(f"== {name}")
            ask(plan, results)
            say(f"   {time.monotonic() - at:.0f} s")
    results["meta"]["minutes"] = (time.monotonic() - began) / 60
    return results


def main():
    a = argparse.ArgumentParser(prog="bench/sandbox.py", description="Measures pico-apiserver beside haproxy, nginx and docker run.")
    a.add_argument("--quick", action="store_true", help="under 1 minute: fewer runs, 100 tunnels")
    a.add_argument("--out", metavar="DIR", help="where RESULTS.md is that gets the section (default bench/; with --only or --peers "
                   "nowhere)")
    a.add_argument("--only", metavar="LIST", help=",".join(QUESTIONS))
    a.add_argument("--peers", metavar="LIST", help="only these in all but first: " + ",".join(dict.fromkeys(p.name for p in S.RELAYS)))
    a.add_argument("--rounds", type=int, metavar="N", help="runs of each in tunnel, burst and health (default 3; quick 2)")
    a.add_argument("--time", type=float, metavar="S", help="seconds of each run in tunnel and health (default 0.5; quick 0.2)")
    a.add_argument("--render", metavar="FILE", help="no measuring: the section of an earlier raw file")
    o = a.parse_args()
    if o.render:
        with open(o.render) as f:
            results = json.load(f)
    else:
        wanted = o.only.split(",") if o.only else list(QUESTIONS)
        unknown = [n for n in wanted if n not in QUESTIONS]
        if unknown:
            sys.exit(f"bench: no question {unknown[0]}; there are: {' '.join(QUESTIONS)}")
        rig.need_programs([rig.TOOLS + "/load", rig.TOOLS + "/relay", rig.BIN + "/pico-apiserver", rig.BIN + "/test-tunnel",
                           "ssh", "ip", "mount"])
        rig.enter()
        plan = Plan(o.quick)
        plan.rounds = o.rounds or plan.rounds
        plan.time = o.time or plan.time
        plan.warm = min(plan.warm, plan.time)
        if o.peers:
            only(lambda p: p.name in o.peers.split(","))
        try:
            rig.hold_memory(512 if o.quick else 1024)
            results = measure(plan, wanted)
        finally:
            Program.stop_all()
        with open(os.path.dirname(rig.TOOLS) + "/bench-sandbox-raw.json", "w") as f:
            json.dump(results, f)
    text = sandbox_report.render(results)
    print(text)
    out = o.out or (None if o.only or o.peers else rig.HERE)
    if out:
        report.put_section(out + "/RESULTS.md", sandbox_report.TITLE, text)
        print(f"written: {out}/RESULTS.md, section {sandbox_report.TITLE[3:]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        Program.stop_all()
        sys.exit(130)
