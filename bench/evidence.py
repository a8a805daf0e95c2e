"""How ours moves bytes: system calls and where the CPU is, in passes of their own."""
import collections
import os
import re
import shutil
import signal
import subprocess
import time

import peers as P
import rig
from questions import say

STREAMS = 8
READS = ("read", "readv", "recvfrom", "recvmsg")
WRITES = ("write", "writev", "sendto", "sendmsg")
CALL = re.compile(r"^\d*\s*(?:<\.\.\. )?(\w+)(?:\(| resumed).*\) += (-?\d+)")


def trace(program):
    out = f"{rig.WORK}/strace.{program.name}"
    p = subprocess.Popen(["strace", "-f", "-qq", "-s", "0", "-o", out, "-p", str(program.pid)],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with open(f"/proc/{program.pid}/status") as f:
            if "TracerPid:\t0\n" not in f.read():
                return p, out
        time.sleep(0.01)
    p.kill()
    raise rig.BenchError("strace does not attach")


def count(path):
    """{system call: [calls, bytes]}, of those that moved something or took part in it."""
    calls = collections.defaultdict(lambda: [0, 0])
    with open(path, errors="replace") as f:
        for line in f:
            m = CALL.match(line)
            if m:
                calls[m[1]][0] += 1
                if m[1] in READS + WRITES + ("splice", "sendfile"):
                    calls[m[1]][1] += max(0, int(m[2]))
    return calls


def strace(peer, way, each_mb):
    """Rows of the table: one a half."""
    running = peer.start()
    rows = []
    try:
        traced = [(p, *trace(p)) for p in running.programs]
        run = rig.load(way, running, conns=STREAMS, amount=each_mb, limit="60s")
        for _, tracer, _ in traced:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
        mb = STREAMS * each_mb
        for program, _, path in traced:
            calls = count(path)
            total = sum(c for c, _ in calls.values())
            most = sorted(calls.items(), key=lambda kv: -kv[1][0])[:5]
            moved = [sum(calls[n][1] for n in names if n in calls) / mb / 1e6
                     for names in (READS, WRITES, ("splice", "sendfile"))]
            rows.append([f"**{peer.name}**, {program.name}, {way}" + ("" if run["ok"] else " (failed)"), f"{total / mb:.2f}",
                         *(f"{m:.2f}" for m in moved), ", ".join(f"{n} {c:,}" for n, (c, _) in most)])
    finally:
        running.stop()
    return rows


def perf(peer):
    """The functions in which the relays' CPU goes, as text."""
    running = peer.start()
    data = rig.WORK + "/perf.data"
    try:
        p = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-o", data,
                              "-p", ",".join(map(str, running.pids)), "--", "sleep", "1.5"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        rig.load("up", running, conns=STREAMS, time=1.5, warm=0.1)
        why = p.communicate(timeout=20)[1]
        if p.returncode != 0 or not os.path.exists(data):
            return f"perf does not work here: {why.strip()[:200]}\n"
        lines = []
        for sort, limit, most in (("comm,dso", "0.5", 8), ("comm,dso,symbol", "1", 14)):
            r = subprocess.run(["perf", "report", "--stdio", "-q", "-i", data, "--sort", sort, "--percent-limit", limit],
                               capture_output=True, text=True, timeout=60)
            lines += [line.rstrip(" -") for line in r.stdout.split("\n") if line.strip()][:most] + [""]
        return "```\n" + "\n".join(lines).strip("\n") + "\n```\n"
    except subprocess.TimeoutExpired:
        return "perf did not come to an end here\n"
    finally:
        running.stop()


def evidence(plan, results):
    rows, perfs = [], ""
    for peer in plan.peers:
        if peer.name not in P.OURS:
            continue
        try:
            if shutil.which("strace"):
                for way in ("up", "down"):
                    rows += strace(peer, way, plan.evidence_mb)
            if shutil.which("perf"):
                perfs += f"\n### perf: {peer.name}, {STREAMS} streams up\n\n" + perf(peer)
        except (rig.BenchError, OSError) as e:
            say(f"  evidence: {peer.name}: {e}")
    results["evidence"] = {"rows": rows, "perf": perfs or "\nperf is not installed.\n", "streams": STREAMS,
                           "mb": STREAMS * plan.evidence_mb}
