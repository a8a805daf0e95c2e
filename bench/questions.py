"""What is asked. Each question fills results[question][peer][condition] with one dict a run; peers
take turns within a round."""
import statistics
import time

import peers as P
import rig
from rig import BenchError


class Plan:
    """How much of everything: full and quick."""
    def __init__(self, quick):
        self.quick = quick
        self.rounds = 2 if quick else 5
        self.time = 0.35 if quick else 0.6
        self.warm = 0.1 if quick else 0.2
        self.streams = [1, 8, 64]
        self.ways = ["up", "down"]
        self.idle_steps = [500, 2000] if quick else [1000, 2000, 4000, 6000, 8000, 9500]
        self.idle_seconds = 6 if quick else 30  # no further step after that
        self.curve = [4, 256] if quick else [2, 4, 16, 32, 256]
        self.evidence_mb = 10 if quick else 25  # each of 8 streams
        self.deadline = time.monotonic() + 140 if quick else None
        self.peers = [p for p in P.PEERS if not quick or p.name in QUICK_PEERS]

    def late(self):
        return self.deadline is not None and time.monotonic() > self.deadline


QUICK_PEERS = ("splice", "haproxy", "ours-raw", "ours-plain", "haproxy-tls-64k", "nginx-tls-64k", "ssh", "ours-tls")
CURVE_PEERS = ("splice", "haproxy", "nginx", "ours-raw", "ours-plain", "haproxy-tls-64k", "nginx-tls-64k",
               "stunnel", "ssh", "ours-tls")
# A process a connection, or the same as without the larger buffers.
NOT_IDLE = ("direct", "copy", "socat", "haproxy-splice", "haproxy-tls-64k", "nginx-tls-64k")


def say(text):
    print(text, flush=True)


def rounds(plan, question, peers, n, ask):
    """ask(peer, running) for every peer, n rounds; each round begins with another."""
    failed = {}
    for i in range(n):
        if plan.late() and (i > 0 or question == "curve"):
            say(f"  {question}: time is short: {i} of {n} rounds")
            break
        turn = i * 3 % max(1, len(peers))
        for peer in peers[turn:] + peers[:turn]:
            try:
                running = peer.start()
            except BenchError as e:
                failed[peer.name] = str(e)
                continue
            try:
                ask(peer, running)
            except BenchError as e:
                failed[peer.name] = str(e)
            finally:
                running.stop()
        say(f"  {question}: round {i + 1} of {n}")
    for name, why in failed.items():
        say(f"  {question}: {name}: {why}")


def put(results, question, peer, condition, run):
    results.setdefault(question, {}).setdefault(peer.name, {}).setdefault(str(condition), []).append(run)


def bulk(plan, results):
    def ask(peer, running):
        for way in plan.ways:
            for n in plan.streams:
                run = rig.load(way, running, conns=n, time=plan.time, warm=plan.warm)
                put(results, "bulk", peer, f"{way}/{n}", run)
    rounds(plan, "bulk", plan.peers, plan.rounds, ask)


def ping(plan, results):
    def ask(peer, running):
        for n in (1, 100):
            put(results, "ping", peer, n, rig.load("ping", running, conns=n, time=plan.time, warm=plan.warm))
    rounds(plan, "ping", plan.peers, min(plan.rounds, 4), ask)


def connect(plan, results):
    def ask(peer, running):
        put(results, "connect", peer, "rate", rig.load("connect", running, conns=32, time=plan.time, warm=plan.warm))
        put(results, "connect", peer, "alone", rig.load("connect", running, conns=1, gap=2, time=plan.time))
    rounds(plan, "connect", plan.peers, min(max(1, plan.rounds - 1), 3), ask)


def idle(plan, results):
    def ask(peer, running):
        halves = [[p.pid for p in half] for half in (running.near, running.far) if half]
        run = {"ok": True, "wanted": plan.idle_steps[-1], "steps": {}}
        h = rig.Idle(running, plan.idle_steps[-1])
        began = time.monotonic()
        try:
            h.tell("hold 1")  # what only the first connection costs belongs to the program at rest
            run["rest"] = [rig.settled(pids) for pids in halves]
            for n in plan.idle_steps:
                answer = h.tell(f"hold {n}")
                run["steps"][str(answer["held"])] = [rig.settled(pids)[0] for pids in halves]
                if answer["held"] < n or time.monotonic() - began > plan.idle_seconds:
                    break
            answer = h.tell("close")
            run["ok"] = answer["serving"] == 0
            time.sleep(1 if plan.quick else 2)
            run["after"] = [rig.settled(pids)[0] for pids in halves]
        finally:
            h.end()
        put(results, "idle", peer, "run", run)
    rounds(plan, "idle", [p for p in plan.peers if p.name not in NOT_IDLE], 1, ask)


def curve(plan, results):
    def ask(peer, running):
        for n in plan.curve:
            put(results, "curve", peer, n, rig.load("up", running, conns=n, time=plan.time, warm=plan.warm))
    rounds(plan, "curve", [p for p in plan.peers if p.name in CURVE_PEERS], 1 if plan.quick else 2, ask)


# -- listening ports ---------------------------------------------------------------------------------

PORTS_FROM, TARGETS_FROM = 20000, 25000  # nobody is at the targets


def ports_ours(n, between, target, flags, query):
    far = P.ours_guest(between, flags)
    src, dst = (f"tcp:127.0.0.1:{first}-{first + n - 1}" if n > 1 else f"tcp:127.0.0.1:{first}"
                for first in (PORTS_FROM, TARGETS_FROM))
    return P.ours_near(src, between, dst, query), [far]


PORTS = {
    "ours-plain": lambda n, between, target: ports_ours(n, between, target, [], ""),
    "ours-tls": lambda n, between, target: ports_ours(n, between, target, P.GUEST_TLS, P.QUERY_TLS),
    "haproxy": lambda n, between, target: (P.haproxy_run("haproxy", P.haproxy_conf(
        f"{PORTS_FROM}-{PORTS_FROM + n - 1}", "", f"server s 127.0.0.1:{target}", conns=5000)), []),
    "nginx": lambda n, between, target: (P.nginx_run(
        "nginx", f"listen 127.0.0.1:{PORTS_FROM}-{PORTS_FROM + n - 1}; proxy_pass 127.0.0.1:{target};"), []),
    "ssh": lambda n, between, target: ports_ssh(n, between),
}


def ports_ssh(n, between):
    far = P.ssh_far(between)
    return P.ssh_near(between, [(PORTS_FROM + i, TARGETS_FROM + i) for i in range(n)]), [far]


def listen(plan, results):
    """From the start of the program until its last port accepts; memory against that with one port."""
    names = [n for n in PORTS if n in [p.name for p in plan.peers]]
    for i in range(1 if plan.quick else 3):
        for name in names:
            rest = 0
            for n in (1, 1000, 5000):
                _, between, target, _ = rig.ports()
                try:
                    near, others = PORTS[name](n, between, target)
                    rig.wait_port(PORTS_FROM + n - 1, [near], limit=30, step=0.0002)
                    seconds = time.monotonic() - near.began
                    own, _ = rig.settled([near.pid])
                    rest = own if n == 1 else rest
                    run = {"ok": True, "ms": seconds * 1000, "bytes": (own - rest) / max(1, n - 1)}
                    results.setdefault("listen", {}).setdefault(name, {}).setdefault(str(n), []).append(run)
                except BenchError as e:
                    say(f"  listen: {name}: {e}")
                finally:
                    rig.Program.stop_all()
        say(f"  listen: round {i + 1}")


QUESTIONS = {"bulk": bulk, "ping": ping, "connect": connect, "idle": idle, "listen": listen, "curve": curve}


# -- figures -----------------------------------------------------------------------------------------

def median(runs, figure):
    """Of the runs that have it; None without any."""
    values = [v for v in (figure(r) for r in runs or []) if v is not None]
    return statistics.median(values) if values else None


def cpu_per_gb(half=None):
    def figure(run):
        if not run.get("bytes") or "halves" not in run:
            return None
        cpu = run["halves"]
        return (sum(cpu) if half is None else cpu[half]) / run["bytes"] * 1e9
    return figure


def cpu_us_per(what):
    def figure(run):
        return sum(run["halves"]) / run[what] * 1e6 if run.get(what) and "halves" in run else None
    return figure


def field(name):
    return lambda run: run.get(name)
