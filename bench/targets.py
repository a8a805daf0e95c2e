"""What issue 3 wants reached: per question a list of (target, measured, reached or None)."""
import peers as P
from questions import cpu_per_gb, cpu_us_per, field, median


def row(text, value, limit, least=False, show="{:.2f}", unit=""):
    """value must be at most limit, or at least with least."""
    if value is None or limit is None:
        return text, "–", None
    return text, show.format(value) + unit, (value >= limit) if least else (value <= limit)


def others(found, kind="tls"):
    return [p.name for p in P.PEERS if p.kind == kind and p.name in found and p.name not in P.OURS + P.REFERENCES]


def best(found, condition, figure, pick=min):
    """(value, name) of the best peer through TLS."""
    values = [(median(found[n].get(condition), figure), n) for n in others(found)]
    values = [v for v in values if v[0] is not None]
    return pick(values) if values else (None, "")


def ratio(a, b):
    return a / b if a is not None and b else None


def bulk(results):
    found = results["bulk"]
    ways = list(dict.fromkeys(c.split("/")[0] for runs in found.values() for c in runs))
    rows = []
    for way in ways:
        c = way + "/64"
        limit = median(found.get("splice", {}).get(c), cpu_per_gb())
        haproxy = median(found.get("haproxy", {}).get(c), cpu_per_gb())
        for ours, half, what in (("ours-raw", None, "raw relay"), ("ours-plain", 0, "plain carrier, tsctl"),
                                 ("ours-plain", 1, "plain carrier, guest")):
            if ours not in found:
                continue
            own = median(found[ours].get(c), cpu_per_gb(half))
            rows.append(row(f"{what}, 64 {way}: CPU at most 1.3 × the bare splice relay", ratio(own, limit), 1.3, unit=" ×"))
            rows.append(row(f"{what}, 64 {way}: CPU at most 0.4 × haproxy", ratio(own, haproxy), 0.4, unit=" ×"))
    for way in ways:
        for n in (1, 8, 64):
            c = f"{way}/{n}"
            own = median(found.get("ours-tls", {}).get(c), cpu_per_gb())
            peer, who = best(found, c, cpu_per_gb())
            rows.append(row(f"TLS, {n} {way}: CPU at most 0.8 × the best peer", ratio(own, peer), 0.8,
                            unit=f" × ({who} {peer:.2f} s/GB)" if peer else ""))
    for ours in P.OURS:
        for way in ways:
            rows.append(row(f"{ours}, 64 {way}: Jain at least 0.99", median(found.get(ours, {}).get(way + "/64"), field("jain")),
                            0.99, True, "{:.4f}"))
    return [r for r in rows if r[2] is not None]


def ping(results):
    found = results["ping"]
    own = found.get("ours-tls", {})
    rows = []
    for key in ("p50_us", "p99_us"):
        peer, who = best(found, "1", field(key))
        mine = median(own.get("1"), field(key))
        rows.append(row(f"1 ping-pong through TLS: {key[:3]} no worse than the best pair", ratio(mine, peer), 1.0,
                        unit=f" × ({who} {peer:.1f} µs)" if peer else ""))
    peer, who = best(found, "1", cpu_us_per("round_trips"))
    rows.append(row("1 ping-pong through TLS: less CPU than any pair", ratio(median(own.get("1"), cpu_us_per("round_trips")), peer),
                    1.0, unit=f" × ({who} {peer:.1f} µs)" if peer else ""))
    ssh = found.get("ssh", {}).get("100")
    rows.append(row("100 ping-pongs through TLS: CPU at most 0.75 × ssh -L's",
                    ratio(median(own.get("100"), cpu_us_per("round_trips")), median(ssh, cpu_us_per("round_trips"))), 0.75, unit=" ×"))
    rows.append(row("100 ping-pongs through TLS: more round trips/s than ssh -L",
                    ratio(median(own.get("100"), field("per_s")), median(ssh, field("per_s"))), 1.0, True, unit=" ×"))
    return [r for r in rows if r[2] is not None]


def connect(results):
    found = results["connect"]
    own = found.get("ours-tls", {})
    peer, who = best(found, "rate", field("per_s"), max)
    alone = median(own.get("alone"), field("p50_us"))
    rows = [row("new connections through the TLS carrier: at least 9 × the best pair",
                ratio(median(own.get("rate"), field("per_s")), peer), 9, True, unit=f" × ({who} {peer:,.0f}/s)" if peer else ""),
            row("one alone in under 0.3 ms (p50)", alone / 1000 if alone else None, 0.3, show="{:.3f}", unit=" ms")]
    return [r for r in rows if r[2] is not None]


def idle_held(run):
    return max(1, *(int(n) for n in run["steps"]))


def idle_bytes(run):
    """Bytes a connection, half by half, when the most were held."""
    n = idle_held(run)
    return [max(0, m - r[0]) / n for m, r in zip(run["steps"][str(n)], run["rest"])]


def idle(results):
    rows = []
    for ours, limit, what in (("ours-raw", 600, "plain"), ("ours-plain", 1024, "framed"), ("ours-tls", 1024, "framed, TLS")):
        if ours not in results["idle"]:
            continue
        run = results["idle"][ours]["run"][0]
        held = idle_held(run)
        per = idle_bytes(run)
        rows.append(row(f"idle, {what}: {run['wanted']:,} held", held, run["wanted"], True, "{:,}"))
        for value, half in zip(per, ("tsctl", "guest")):
            rows.append(row(f"idle, {what}, {half}: at most {limit} bytes", value, limit, show="{:.0f}", unit=" bytes"))
        for after, rest, then, half in zip(run["after"], run["rest"], run["steps"][str(held)], ("tsctl", "guest")):
            back = (then - after) / max(1, then - rest[0])
            rows.append(row(f"idle, {what}, {half}: given back on close (90 %)", max(0, back) * 100, 90, True, "{:.0f}", " %"))
        for rest, half in zip(run["rest"], ("tsctl", "guest")):
            rows.append(row(f"{what}, {half}: under 4 MB at rest, what is its own", rest[0] / 1e6, 4, show="{:.1f}", unit=" MB"))
            rows.append(row(f"{what}, {half}: the same, resident, shared libraries included", rest[1] / 1e6, 4, show="{:.1f}",
                            unit=" MB"))
    return rows


def listen(results):
    rows = []
    for ours in ("ours-plain", "ours-tls"):
        found = results["listen"].get(ours, {})
        for n, limit in ((1000, 20), (5000, 150)):
            rows.append(row(f"{ours}: {n:,} ports in {limit} ms", median(found.get(str(n)), field("ms")), limit, show="{:.1f}", unit=" ms"))
            rows.append(row(f"{ours}: {n:,} ports, at most 256 bytes each", median(found.get(str(n)), field("bytes")), 256,
                            show="{:.0f}", unit=" bytes"))
    return [r for r in rows if r[2] is not None]


TARGETS = {"bulk": bulk, "ping": ping, "connect": connect, "idle": idle, "listen": listen}
