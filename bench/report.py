"""Tables and verdicts out of the results: bench/RESULTS.md."""
import os
import re
import subprocess
import time

import peers as P
import plot
import rig
import targets
from questions import cpu_per_gb, cpu_us_per, field, median


def first_line(*argv, like=""):
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=10)
        lines = (r.stdout + r.stderr).strip().split("\n")
        return next((line for line in lines if line.startswith(like)), "?")
    except (OSError, subprocess.TimeoutExpired):
        return "?"


def machine(quick):
    """What RESULTS.md says about where and when."""
    with open("/proc/cpuinfo") as f:
        models = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    with open("/proc/meminfo") as f:
        gb = int(f.readline().split()[1]) / (1 << 20)
    git = ["git", "-C", rig.ROOT]
    commit = first_line(*git, "rev-parse", "--short", "HEAD")
    changed = subprocess.run(git + ["diff", "--quiet", "HEAD", "--", "reactor", "json", "http", "proto", "cmd"],
                             capture_output=True).returncode
    versions = [first_line("haproxy", "-v"), first_line("nginx", "-v"), first_line("stunnel4", "-version", like="stunnel "),
                first_line("ssh", "-V"), first_line("socat", "-V", like="socat version")]
    with open("/proc/loadavg") as f:
        load = f.read().split()[0]
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit + (" and changes" if changed else ""),
            "machine": f"{models[0] if models else '?'}, {len(models)} cores, {gb:.0f} GB",
            "kernel": os.uname().release, "versions": versions, "quick": quick, "load": load}


# -- formatting --------------------------------------------------------------------------------------

def num(v, digits=0):
    return "–" if v is None else f"{v:,.{digits}f}"


def times(v):
    return "–" if v is None else f"{v:.2f} ×"


def table(head, rows):
    align = "|---|" + "--:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", align] + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def name(peer):
    return f"**{peer.name}**" if peer.name in P.OURS else peer.name


def in_order(found, kind):
    return [p for p in P.PEERS if p.kind == kind and p.name in found]


def ratios(found, kind, condition, figure, best=min):
    """By peer: its median against the best of the others."""
    values = {p.name: median(found[p.name].get(condition), figure) for p in in_order(found, kind)}
    rest = [v for n, v in values.items() if v and n not in P.OURS and n not in P.REFERENCES]
    return {n: v / best(rest) if v is not None and rest else None for n, v in values.items()}


def faults(runs):
    """What went wrong in a peer's runs, in words."""
    said = []
    n = max(1, sum(r.get("conns", 0) for r in runs))
    half = sum(r.get("half_close_lost", 0) for r in runs)
    for key, words in (("bad", "wrong bytes"), ("short", "lost bytes"), ("unfinished", "streams without an end"),
                       ("errors", "errors"), ("failed", "failures")):
        if sum(r.get(key) or 0 for r in runs):
            said.append(words)
    if half:
        said.append(f"half close lost in {100 * half / n:.0f} %")
    for r in runs:
        if not said and not r["ok"]:
            said.append(r.get("said") or ("nothing moved in a run" if r.get("bytes") == 0 else "failed"))
    return ", ".join(said) or "kept"


KINDS = (("plain", "Plain, one hop (ours-plain: two)"), ("tls", "TLS 1.3 with client certificates, two hops"))


# -- one function a question -------------------------------------------------------------------------

def bulk(results):
    found = results["bulk"]
    conditions = sorted({c for runs in found.values() for c in runs}, key=lambda c: (c.split("/")[0] != "up", c[0], int(c.split("/")[1])))
    out = "## Bulk\n\nCPU s/GB is of the relay's processes, both halves together; × is against the best peer's.\n"
    for kind, title in KINDS:
        for way in dict.fromkeys(c.split("/")[0] for c in conditions):
            ns = [c.split("/")[1] for c in conditions if c.startswith(way + "/")]
            peers = in_order(found, kind)
            if not peers:
                continue
            ratio = {n: ratios(found, kind, f"{way}/{n}", cpu_per_gb()) for n in ns}
            head = [f"{way}"] + [f"MB/s {n}" for n in ns] + [f"CPU s/GB {n}" for n in ns] + [f"× {n}" for n in ns]
            head += [f"Jain {ns[-1]}", "load generator busy", "content, half close"]
            rows = []
            for p in peers:
                runs = {n: found[p.name].get(f"{way}/{n}", []) for n in ns}
                flat = [r for n in ns for r in runs[n]]
                busy = [r["load_cpu"] / r["seconds"] for r in flat if r.get("seconds")]
                rows.append([name(p)] + [num(median(runs[n], field("mb_per_s"))) for n in ns] +
                            [num(median(runs[n], cpu_per_gb()), 3) for n in ns] +
                            [times(ratio[n].get(p.name)) for n in ns] +
                            [num(median(runs[ns[-1]], field("jain")), 3),
                             f"{100 * max(busy):.0f} %" if busy else "–", faults(flat)])
            out += f"\n### {title}: {way}\n\n" + table(head, rows)
    return out + "\n" + halves(found, conditions)


def halves(found, conditions):
    """Ours, half by half."""
    rows = []
    for n in P.OURS:
        if n in found and P.BY_NAME[n].hops == 2:
            for half, program in ((0, "tsctl"), (1, "guest")):
                rows.append([f"**{n}**, {program}"] + [num(median(found[n].get(c), cpu_per_gb(half)), 3) for c in conditions])
    return "### Ours, each half: CPU s/GB\n\n" + table(["", *conditions], rows) if rows else ""


def ping(results):
    found = results["ping"]
    out = "## Round trips\n\nA 64-byte message there and back on each connection; CPU µs of the relay's processes for one.\n"
    for kind, title in KINDS:
        for n in ("1", "100"):
            peers = in_order(found, kind)
            if not peers:
                continue
            ratio = ratios(found, kind, n, cpu_us_per("round_trips"))
            rows = []
            for p in peers:
                runs = found[p.name].get(n, [])
                rows.append([name(p), num(median(runs, field("per_s"))), num(median(runs, field("p50_us")), 1),
                             num(median(runs, field("p99_us")), 1), num(median(runs, field("p999_us")), 1),
                             num(median(runs, cpu_us_per("round_trips")), 2), times(ratio.get(p.name))])
            out += f"\n### {title}: {n} connection{'s' if n != '1' else ''}\n\n" + table(
                [f"{n}", "round trips/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs", "× CPU"], rows)
    return out


def connect(results):
    found = results["connect"]
    out = ("## New connections\n\nConnect, a byte there and back, close: 32 at a time, and one alone every 2 ms "
           "(time until its first byte is back).\n")
    for kind, title in KINDS:
        peers = in_order(found, kind)
        if not peers:
            continue
        ratio = ratios(found, kind, "rate", field("per_s"), max)
        rows = []
        for p in peers:
            rate, alone = found[p.name].get("rate", []), found[p.name].get("alone", [])
            rows.append([name(p), num(median(rate, field("per_s"))), times(ratio.get(p.name)),
                         num(median(rate, cpu_us_per("done"))), num(median(alone, field("p50_us"))),
                         num(median(alone, field("p99_us"))), faults(rate + alone).replace("kept", "none")])
        out += f"\n### {title}\n\n" + table(["", "per s", "× best peer", "CPU µs each", "alone: p50 µs", "p99 µs", "faults"], rows)
    return out


def idle(results):
    found = results["idle"]
    most = max(run["wanted"] for runs in found.values() for run in runs["run"])
    out = (f"## Idle connections\n\n{most:,} are to be held, after a byte each way; those that take long to open, not all of them. "
           "Bytes a connection: anonymous memory over that of the program at rest, without the kernel's; *kept* is what of it is "
           "still there after all were closed.\n\n")
    rows = []
    for p in in_order(found, "plain") + in_order(found, "tls"):
        run = found[p.name]["run"][0]
        held = targets.idle_held(run)
        per = targets.idle_bytes(run)
        after = [(a - r[0]) / held for a, r in zip(run["after"], run["rest"])]
        rest = [f"{r[1] / 1e6:.1f} ({r[0] / 1e6:.1f})" for r in run["rest"]]
        rows.append([name(p), num(held), num(sum(per)), " + ".join(num(v) for v in per),
                     " + ".join(num(max(0, v)) for v in after), " + ".join(rest)])
    return out + table(["", "held", "bytes a connection", "each half", "kept", "program at rest: MB resident (anonymous)"], rows)


def listen(results):
    found = results["listen"]
    out = "## Listening ports\n\nFrom exec until the last port accepts; bytes for each more than the first.\n\n"
    rows = []
    for peer, by_n in found.items():
        rows.append([name(P.BY_NAME[peer])] + [num(median(by_n.get(n), field("ms")), 1) for n in ("1", "1000", "5000")] +
                    [num(median(by_n.get(n), field("bytes"))) for n in ("1000", "5000")])
    return out + table(["", "1: ms", "1,000: ms", "5,000: ms", "1,000: bytes each", "5,000: bytes each"], rows)


def evidence(found):
    out = (f"## How ours moves bytes\n\n{found['mb']} MB in {found['streams']} streams under strace, which slows the programs down "
           "(so fewer, larger calls than without). Per payload byte: bytes that were read into the program, written from it, and that "
           "went through splice (once in, once out: 2). One read and one write are two copies by the kernel; splice makes none in user space.\n\n")
    head = ["", "calls a MB", "read", "written", "spliced", "most frequent calls"]
    return out + table(head, found["rows"]).replace("--:|\n", "---|\n", 1) + found["perf"]


SECTIONS = {"bulk": bulk, "ping": ping, "connect": connect, "idle": idle, "listen": listen}


OTHERS = ("## File sync\n", "## Sandboxes\n")  # sync.py's, sandbox.py's


# -- the whole ---------------------------------------------------------------------------------------

def verdicts(results, question):
    rows = []
    for text, measured, reached in targets.TARGETS[question](results):
        verdict = "not measured" if reached is None else ("**reached**" if reached else "**not reached**")
        rows.append([text, measured, verdict])
    return "\n" + table(["target", "measured", ""], rows).replace("--:|", "---|") if rows else ""


def head(results):
    m = results["meta"]
    text = "# Results\n\nWritten by `./build.sh bench`; [README.md](README.md) says what is measured and how.\n\n"
    text += f"- {m['date']}, commit {m['commit']}, {'quick' if m['quick'] else 'full'} run of {m.get('minutes', 0):.1f} minutes\n"
    text += f"- {m['machine']}, Linux {m['kernel']}; load average before {m['load']}\n"
    text += "- " + "; ".join(m["versions"]) + "\n"
    for peer, why in results["missing"].items():
        text += f"- not measured: {peer}: {why[:160]}\n"
    return text


def render(results):
    parts = [head(results)]
    for question, section in SECTIONS.items():
        if results.get(question):
            parts.append(section(results) + verdicts(results, question))
    if results.get("curve"):
        parts.append("## Against the number of connections\n\n" + "\n".join(f"![{t}](plots/{f})" for f, t in plot.FILES.items()) + "\n")
    if results.get("evidence"):
        parts.append(evidence(results["evidence"]))
    return "\n".join(parts)


def sections(path):
    """The file in pieces: its head, and a piece for each line that begins with "## "."""
    try:
        with open(path) as f:
            return re.split(r"^(?=## )", f.read(), flags=re.MULTILINE)
    except FileNotFoundError:
        return ["# Results\n"]


def put_section(path, title, text):
    """Puts a section that begins with title in the place of an earlier one, or last."""
    parts = sections(path)
    at = next((i for i, p in enumerate(parts) if p.startswith(title + "\n")), len(parts))
    parts[at:at + 1] = [text]
    with open(path, "w") as f:
        f.write("\n".join(p.rstrip("\n") + "\n" for p in parts))


def write(results, text, out):
    """The relay's tables; sections of the other benches stay behind them."""
    os.makedirs(out + "/plots", exist_ok=True)
    path = out + "/RESULTS.md"
    others = [p for p in sections(path) if p.startswith(OTHERS)]
    with open(path, "w") as f:
        f.write("\n".join(p.rstrip("\n") + "\n" for p in [text, *others]))
    for file, svg in plot.draw(results).items():
        with open(f"{out}/plots/{file}", "w") as f:
            f.write(svg)
