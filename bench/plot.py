"""Line plots as SVG, by hand."""
import math

import peers as P
from questions import cpu_per_gb, field, median

FILES = {"throughput-plain.svg": "Throughput, plain", "throughput-tls.svg": "Throughput, TLS",
         "cpu-plain.svg": "CPU, plain", "cpu-tls.svg": "CPU, TLS", "memory.svg": "Memory"}
COLOURS = {"splice": "#888888", "copy": "#bbbbbb", "haproxy": "#1f77b4", "nginx": "#2ca02c", "socat": "#8c564b",
           "haproxy-tls": "#1f77b4", "haproxy-tls-64k": "#1f77b4", "nginx-tls": "#2ca02c", "nginx-tls-64k": "#2ca02c",
           "stunnel": "#9467bd", "ssh": "#ff7f0e", "ours-raw": "#f4a6a6", "ours-plain": "#d62728", "ours-tls": "#d62728"}
W, H, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 170, 40, 50


def ticks(low, high, log):
    """Round values between the two."""
    if log:
        out, v = [], 10 ** math.floor(math.log10(low))
        while v <= high:
            out += [v * m for m in ((1, 2, 5) if high / low < 100 else (1,)) if low <= v * m <= high]
            v *= 10
        return out
    step = 10 ** math.floor(math.log10((high - low) / 4 or 1))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
    return [i * step for i in range(math.ceil(low / step), int(high / step) + 1)]


def label(v):
    return f"{v:,.0f}" if v >= 10 else f"{v:.3g}"


def plot(title, xlabel, ylabel, series, xs=None, logx=False, logy=False):
    """series: {name: [(x, y)]}."""
    points = [p for line in series.values() for p in line]
    if not points:
        return None
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = (min(p[1] for p in points) * 0.8 if logy else 0), max(p[1] for p in points) * 1.08
    if x0 == x1 or y0 >= y1:
        return None

    def scale(v, low, high, log):
        return math.log(v / low) / math.log(high / low) if log else (v - low) / (high - low)

    def at(p):
        return (LEFT + scale(p[0], x0, x1, logx) * (W - LEFT - RIGHT),
                H - BOTTOM - scale(p[1], y0, y1, logy) * (H - TOP - BOTTOM))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
           f'<rect width="{W}" height="{H}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="24" font-size="15">{title}</text>',
           f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 12}" text-anchor="middle">{xlabel}</text>',
           f'<text x="16" y="{H / 2}" text-anchor="middle" transform="rotate(-90 16 {H / 2})">{ylabel}</text>']
    for v in xs or ticks(x0, x1, logx):
        x, _ = at((v, y1))
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{H - BOTTOM}" stroke="#eeeeee"/>'
                   f'<text x="{x:.1f}" y="{H - BOTTOM + 16}" text-anchor="middle">{label(v)}</text>')
    for v in ticks(y0, y1, logy):
        _, y = at((x0, v))
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{W - RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>'
                   f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(v)}</text>')
    ends = []
    for name, line in series.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, sorted(line)))
        dash = ' stroke-dasharray="5 3"' if name in P.REFERENCES or not name.endswith("64k") and name.endswith("-tls") and name not in P.OURS else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS.get(name, "#000000")}" '
                   f'stroke-width="{3 if name in P.OURS else 1.5}"{dash}/>')
        ends.append([at(max(line)), name])
    ends.sort(key=lambda e: e[0][1])
    for i, ((x, y), name) in enumerate(ends):  # names beside the lines' ends, not over each other
        y = max(y, ends[i - 1][0][1] + 14) if i else y
        ends[i][0] = (x, y)
        weight = ' font-weight="bold"' if name in P.OURS else ""
        out.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{COLOURS.get(name, "#000000")}"{weight}>{name}</text>')
    return "\n".join(out) + "\n</svg>\n"


def by_connections(results, kind, figure):
    """{peer: [(connections, figure)]} of bulk up, from the curve and from the table's runs."""
    series = {}
    for p in P.PEERS:
        if p.kind != kind or p.name not in results.get("curve", {}):
            continue
        runs = {int(n): r for n, r in results["curve"][p.name].items()}
        for c, r in results.get("bulk", {}).get(p.name, {}).items():
            if c.startswith("up/"):
                runs[int(c[3:])] = r
        series[p.name] = [(n, v) for n, r in runs.items() if (v := median(r, figure)) is not None]
    return series


def draw(results):
    """{file: svg}"""
    out = {}
    for kind, title in (("plain", "plain, one hop (ours-plain: two)"), ("tls", "mutual TLS, two hops")):
        for what, figure, ylabel in (("throughput", field("mb_per_s"), "MB/s"), ("cpu", cpu_per_gb(), "CPU s/GB")):
            series = by_connections(results, kind, figure)
            xs = sorted({n for line in series.values() for n, _ in line})
            out[f"{what}-{kind}.svg"] = plot(f"Bulk up, {title}", "connections", ylabel, series, xs, logx=True)
    memory = {}
    for p in P.PEERS:
        runs = results.get("idle", {}).get(p.name)
        if runs:
            run = runs["run"][0]
            memory[p.name] = [(int(n), sum(m) / 1e6) for n, m in run["steps"].items() if sum(m) > 0]
    out["memory.svg"] = plot("Idle connections: anonymous memory, all halves", "connections", "MB", memory, logy=True)
    return {f: svg for f, svg in out.items() if svg}
