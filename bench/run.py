#!/usr/bin/python3
"""The bench's runner; ./build.sh bench calls it, bench/README.md explains it."""
import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import evidence  # noqa: E402
import peers as P  # noqa: E402
import questions as Q  # noqa: E402
import report  # noqa: E402
import rig  # noqa: E402


ALL = dict(Q.QUESTIONS, evidence=evidence.evidence)


def options():
    a = argparse.ArgumentParser(prog="bench/run.py", description="Measures tstunnel beside its peers.")
    a.add_argument("--quick", action="store_true", help="under 3 minutes: fewer peers, shorter runs")
    a.add_argument("--out", metavar="DIR", help="where RESULTS.md and plots/ go (default bench/; with --only or "
                   "--peers nowhere)")
    a.add_argument("--only", metavar="LIST", help="questions: " + ",".join(ALL))
    a.add_argument("--peers", metavar="LIST", help=",".join(P.BY_NAME))
    a.add_argument("--rounds", type=int, metavar="N", help="runs of each (default 5; quick 2)")
    a.add_argument("--time", type=float, metavar="S", help="seconds of each run (default 1; quick 0.4)")
    a.add_argument("--streams", metavar="LIST", help="bulk: numbers of streams (default 1,8,64)")
    a.add_argument("--ways", metavar="LIST", help="bulk: up, down, both (default up,down)")
    a.add_argument("--render", metavar="FILE", help="no measuring: the report of an earlier raw.json")
    return a.parse_args()


def plan_of(o):
    plan = Q.Plan(o.quick)
    if o.peers:
        wanted = o.peers.split(",")
        unknown = [n for n in wanted if n not in P.BY_NAME]
        if unknown:
            sys.exit(f"bench: no peer {unknown[0]}; there are: {' '.join(P.BY_NAME)}")
        plan.peers = [p for p in P.PEERS if p.name in wanted]
    plan.rounds = o.rounds or plan.rounds
    plan.time = o.time or plan.time
    if o.streams:
        plan.streams = [int(n) for n in o.streams.split(",")]
    if o.ways:
        plan.ways = o.ways.split(",")
    return plan


def measure(plan, wanted, results):
    for peer in list(plan.peers):
        why = P.why_not(peer)
        if why:
            plan.peers.remove(peer)
            results["missing"][peer.name] = why
            print(f"not measured: {peer.name}: {why}", flush=True)
    for name, ask in ALL.items():
        if name in wanted:
            began = time.monotonic()
            print(f"== {name}", flush=True)
            ask(plan, results)
            print(f"   {time.monotonic() - began:.0f} s", flush=True)
    results["meta"]["minutes"] = (time.monotonic() - results["meta"].pop("began")) / 60


def main():
    o = options()
    if o.render:
        with open(o.render) as f:
            return finish(json.load(f), o.out)
    wanted = o.only.split(",") if o.only else list(ALL)
    unknown = [n for n in wanted if n not in ALL]
    if unknown:
        sys.exit(f"bench: no question {unknown[0]}")
    rig.need_programs([rig.TOOLS + "/load", rig.TOOLS + "/relay", rig.BIN + "/tsctl", rig.BIN + "/guest", "ip", "mount"])
    rig.enter()
    plan = plan_of(o)
    results = {"meta": report.machine(o.quick), "missing": {}}
    results["meta"]["began"] = time.monotonic()
    try:
        rig.hold_memory(512 if o.quick else 1024)
        P.make_keys()
        measure(plan, wanted, results)
    finally:
        rig.Program.stop_all()
    raw = os.path.dirname(rig.TOOLS) + "/bench-raw.json"
    with open(raw, "w") as f:
        json.dump(results, f)
    return finish(results, o.out or (None if o.only or o.peers else rig.HERE))


def finish(results, out):
    text = report.render(results)
    print(text)
    if out:
        report.write(results, text, out)
        print(f"written: {out}/RESULTS.md and {out}/plots/")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        rig.Program.stop_all()
        sys.exit(130)
