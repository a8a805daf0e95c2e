"""The section File sync of bench/RESULTS.md."""
import statistics

from report import num, table

TITLE = "## File sync"
OURS = "**tstunnel**"
PEERS = ("tar \\| ssh tar", "rsync over ssh", "unison over ssh", OURS)


def runs(results, question, who, *keys):
    d = results.get(question, {}).get(who, {})
    for k in keys:
        d = d.get(str(k), {})
    return d.get("runs", [])


def median(values):
    return statistics.median(values) if values else None


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))] if values else None


def seconds(v):
    return "–" if v is None else f"{v:.2f}" if v >= 0.1 else f"{v:.3f}"


def initial(r):
    sizes = [r["files"], r["many"]]
    rows = []
    for who in PEERS:
        row = [who]
        for size in sizes:
            row += [seconds(median(runs(r, "initial", who, size))), num_mb(median(runs(r, "initial-wire", who, size)))]
        rows.append(row)
    return "### Initial sync\n\n" + table(["", f"{sizes[0]:,} files and {r['large_mb']} MB: s", "MB on the wire",
                                           f"{sizes[1]:,} files: s", "MB on the wire"], rows)


def num_mb(v):
    return "–" if v is None else num(v / 1e6, 2)


def edit(r):
    sizes = [100, r["files"], r["many"]]
    rows = []
    for who in PEERS[1:]:
        row = [who]
        for size in sizes:
            found = runs(r, "edit", who, size)
            row.append("–" if not found else f"{1000 * median(found):.1f}" +
                       (f" / {1000 * percentile(found, 0.99):.1f}" if who == OURS else ""))
        rows.append(row)
    return ("### One edit until the other side can read it\n\nms; ours: median / 99th percentile of "
            f"{len(runs(r, 'edit', OURS, r['files']))}, read there in a tight loop; the others: one run of the program.\n\n" +
            table([""] + [f"{s:,} files" + (f" and {r['large_mb']} MB" if s == r["files"] else "") for s in sizes], rows))


def large(r):
    rows = []
    for who in PEERS[1:]:
        row = [who]
        for how in ("write", "append", "insert"):
            found = runs(r, "large", who, how)
            row += [seconds(median([t for t, _ in found])), num_mb(median([w for _, w in found]))]
        rows.append(row)
    head = [""]
    for words in ("written into", "appended", "inserted"):
        head += [f"{words}: s", "MB on the wire"]
    return f"### 1 MB changed in the file of {r['large_mb']} MB\n\n" + table(head, rows)


def checkout(r):
    rows = []
    for who in PEERS[1:] + ("git alone",):
        rows.append([who, seconds(median(runs(r, "checkout", who))), num_mb(median(runs(r, "checkout-wire", who)))])
    return (f"### git checkout of another branch, {r['files']:,} files\n\nA tenth of the files differ, of each twenty directories "
            "one has another name. Until both are equal, with git's own time.\n\n" + table(["", "s", "MB on the wire"], rows))


def restart(r):
    sizes = [r["files"], r["many"]]
    rows = [[f"{who}: a run" ] + [seconds(median(runs(r, "restart", who, s, "run"))) for s in sizes] for who in PEERS[1:3]]
    for what in ("worker killed", "guest killed"):
        rows.append([f"{OURS}: {what}, until it watches again"] + [seconds(median(runs(r, "restart", OURS, s, what))) for s in sizes])
    return "### Restart with nothing changed\n\n" + table([""] + [f"{s:,} files: s" for s in sizes], rows)


def per_entry(r, size):
    """Bytes an entry of both workers, beyond those of an empty sync."""
    found, empty = r.get("memory", {}).get(str(size)), r.get("memory", {}).get("0")
    if not found or not empty:
        return None
    return [(b - e) / found["entries"] for b, e in zip(found["bytes"], empty["bytes"])]


def memory(r):
    rows = []
    for i, who in enumerate(("tsctl's worker", "guest's worker")):
        row = [f"**{who}**"]
        for size in (0, r["files"], r["many"]):
            found = r.get("memory", {}).get(str(size))
            row.append(num(found["bytes"][i] / 1e6, 1) if found else "–")
        row += [num(per_entry(r, s)[i]) if per_entry(r, s) else "–" for s in (r["files"], r["many"])]
        rows.append(row)
    return "### Memory\n\nResident MB after 5 s of rest, and bytes an entry beyond the worker of an empty sync.\n\n" + table(
        ["", "empty", f"{r['files']:,} files", f"{r['many']:,} files", f"bytes an entry, {r['files']:,}", f"{r['many']:,}"], rows)


def forwarding(r):
    rows = []
    for key, words in (("alone", "alone"), ("scan", "while both sides scan")):
        found = [x for x in runs(r, "forwarding", key, r["many"]) if x.get("p50_us") is not None]
        rows.append([words] + [num(median([x[p] for x in found]), 1) for p in ("p50_us", "p99_us", "p999_us")])
    return (f"### Forwarding meanwhile\n\nA round trip of 64 bytes through the same tunnel, while {r['many']:,} files are looked at "
            "after a worker was killed. µs; two cores for all of it.\n\n" + table(["", "p50", "p99", "p99.9"], rows))


def targets(r):
    rows = []

    def row(text, value, limit, show="{:.2f}"):
        if value is not None and limit is not None:
            rows.append([text, show.format(value) + " (limit " + show.format(limit) + ")",
                         "**reached**" if value <= limit else "**not reached**"])
    for size in (r["files"], r["many"]):
        row(f"initial sync of {size:,}: no slower than tar, s", median(runs(r, "initial", OURS, size)),
            median(runs(r, "initial", PEERS[0], size)))
    edits = {s: median(runs(r, "edit", OURS, s)) for s in (100, r["files"], r["many"])}
    row(f"an edit among {r['files']:,}: ms", edits[r["files"]] and 1000 * edits[r["files"]], 15, "{:.1f}")
    if edits[100] and edits[r["many"]]:
        row(f"an edit among {r['many']:,}: at most 1.2 × that among 100", edits[r["many"]] / edits[100], 1.2)
    for how in ("write", "append", "insert"):
        ours, theirs = runs(r, "large", OURS, how), runs(r, "large", PEERS[1], how)
        for i, what in enumerate(("s", "MB on the wire")):
            scale = 1e6 if i else 1
            row(f"{how} 1 MB: at most rsync's {what}", ours and median([x[i] for x in ours]) / scale or None,
                theirs and median([x[i] for x in theirs]) / scale or None)
    row("git checkout: at most unison's s", median(runs(r, "checkout", OURS)), median(runs(r, "checkout", PEERS[2])))
    for s in (r["files"], r["many"]):
        row(f"restart, {s:,}: at most unison's run, s", median(runs(r, "restart", OURS, s, "worker killed")),
            median(runs(r, "restart", PEERS[2], s, "run")))
    each = per_entry(r, r["many"])
    for i, who in enumerate(("tsctl's", "the guest's") if each else ()):
        row(f"bytes an entry in {who} worker", each[i], 200, "{:.0f}")
    return table(["target", "measured", ""], rows).replace("--:|", "---|") if rows else ""


def render(r):
    m = r["meta"]
    text = f"""{TITLE}

Written by `./build.sh bench sync`, {m['date']}, commit {m['commit']}, {'quick' if m['quick'] else 'full'} run of {m.get('minutes', 0):.1f} minutes.

- {m['machine']}, Linux {m['kernel']}; load average before {m['load']}; trees and stores on tmpfs, caches warm
- {'; '.join(m['versions'])}; ssh: aes128-gcm, no compression
- ours: tsctl and guest with certificates, `tsctl sync create`; MB on the wire: all bytes over loopback, headers and all
"""
    for who, why in r["failed"].items():
        text += f"- not measured, or in part: {who}: {why}\n"
    parts = [initial, edit, large, checkout, restart, memory, forwarding]
    return text + "\n" + "\n".join(p(r) for p in parts) + "\n" + targets(r)
