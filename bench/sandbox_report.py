"""The section Sandboxes of bench/RESULTS.md."""
from questions import cpu_per_gb, cpu_us_per, field, median
from report import faults, num, table, times
from sync_report import percentile

TITLE = "## Sandboxes"
OURS = "pico-apiserver"
BY_HAND = ("docker run, inspect, cp of the host key, ssh", "docker run, inspect, ssh: any host key")


def bold(name):
    return f"**{name}**" if name.startswith(OURS) else name


def ratio(a, b):
    return a / b if a is not None and b else None


def per_gb_of_all(run):
    return cpu_per_gb()({**run, "halves": [*run["halves"], run["load_cpu"]]}) if "halves" in run else None


def tunnel(r):
    found = r["tunnel"]
    out = ("### A tunnel's bytes\n\nCONNECT, then bytes to an address on loopback and back, beside haproxy in TCP mode (it copies; "
           "with `option splice-request`, `splice-response` it does not), tinyproxy (which CONNECTs, too, a thread for each), the bench's "
           "bare splice relay, and no relay. Relays on one "
           "core, the load generator, which checks each byte, on another. CPU s/GB: the relay's, and with the load generator's.\n")
    for way in ("up", "down"):
        ns = ("1", "8")
        head = [way] + [f"MB/s {n}" for n in ns] + [f"CPU s/GB {n}" for n in ns] + [f"with load {n}" for n in ns]
        head += [f"× haproxy-splice {n}" for n in ns] + ["content, half close"]
        rows = []
        for peer, by in found.items():
            runs = {n: by.get(f"{way}/{n}", []) for n in ns}
            rows.append([bold(peer)] + [num(median(runs[n], field("mb_per_s"))) for n in ns] +
                        [num(median(runs[n], cpu_per_gb()), 3) for n in ns] +
                        [num(median(runs[n], per_gb_of_all), 3) for n in ns] +
                        [times(ratio(median(runs[n], cpu_per_gb()), of_peer(found, "haproxy-splice", f"{way}/{n}", cpu_per_gb())))
                         for n in ns] + [faults([x for n in ns for x in runs[n]])])
        out += "\n" + table(head, rows)
    return out


def of_peer(found, peer, condition, figure):
    return median(found.get(peer, {}).get(condition), figure)


def ms(key):
    return lambda run: run[key] / 1000 if run.get(key) is not None else None


def opened(found, held=None):
    rows = []
    for peer, condition, runs in ((p, c, runs) for p, by in found.items() for c, runs in by.items()):
        rows.append([bold(peer) + ("" if condition == "run" else f", {condition}"), num(1000 * median(runs, field("seconds")), 1),
                     num(median(runs, ms("p50_us")), 1), num(median(runs, ms("p99_us")), 1),
                     num(1e6 * median(runs, lambda x: x["halves"][0]) / runs[0]["held"]),
                     num(1e6 * median(runs, field("cpu_all")) / runs[0]["held"])])
        if held:
            for of in (held, found):
                rows[-1].append(num(of_peer(of, peer, "run", field("memory"))) if peer != "direct" else "–")
    return table(["", "all: ms", "p50 ms", "p99 ms", "CPU µs each", "of all"] +
                 (["bytes each", "after such a burst"] if held else []), rows)


def burst(r):
    return (f"### {r['tunnels']} at once\n\nOpened all at the same moment, until each has had a byte back (ours and tinyproxy "
            "after CONNECT and its answer: one more round trip). CPU: of the relay, and of all. Bytes each: anonymous memory of the program with "
            f"{r['tunnels']} over that with one, opened 64 at a time; without the kernel's.\n\n" + opened(r["burst"], r["held"]))


def banners(r):
    return (f"### {r['tunnels']} to real sshds\n\nThe same until each has an sshd's banner, on all cores. *sshd*: OpenSSH's, "
            "which listens; before it haproxy and ours. Its queue has room for 128, and others are lost without a word, so no more than "
            f"{r['queue']} are opened at a time. *process*: `sshd -i` in ten sandboxes of ours, which need no queue. CPU: of the relay, "
            "and of all, sshds and load generator.\n\n" + opened(r["banners"]))


def health(r):
    found = r["health"]
    ns = list(next(iter(found.values())))
    head = [""] + [f"per s, {n}" for n in ns] + [f"CPU µs, {n}" for n in ns] + [f"p99 µs, {n}" for n in ns] + ["load generator busy", "faults"]
    rows = []
    for peer, by in found.items():
        flat = [x for n in ns for x in by[n]]
        busy = [x["load_cpu"] / x["seconds"] for x in flat if x.get("seconds")]
        rows.append([bold(peer)] + [num(median(by[n], field("per_s"))) for n in ns] +
                    [num(median(by[n], cpu_us_per("requests")), 2) for n in ns] + [num(median(by[n], field("p99_us"))) for n in ns] +
                    [f"{100 * max(busy):.0f} %" if busy else "–", faults(flat).replace("kept", "none")])
    return (f"### GET /health\n\nOn one core, over {', '.join(ns)} connections that are kept, beside the same body as a static answer of "
            "nginx (one worker, `return 200`) and haproxy. CPU µs of the server for one.\n\n" + table(head, rows))


def times_of(r, who, key):
    return [1000 * x[key] for x in r["first"].get(who, []) if x.get(key) is not None]


def first(r):
    rows = []
    for who, runs in r["first"].items():
        row = [who, str(len(runs))]
        for key in ("ready", "output"):
            values = times_of(r, who, key)
            row += [num(percentile(values, 0.5), 1), num(percentile(values, 0.95), 1)]
        rows.append(row)
    return ("### From nothing to ssh's first output\n\n`POST /v1/sessions` until its answer (*ready*), then OpenSSH's ssh with "
            "`test-tunnel -W` as ProxyCommand and a key until the first byte of `echo up`; *test-tunnel* is our own client instead. By "
            "hand: `docker run` of the same image with the same limits, `docker inspect`, a loop until its sshd speaks, the same ssh to "
            "its address; the API also tells the host key, which by hand is `docker cp`. An ssh straight "
            "over TCP waits twice for a delayed acknowledgement, some 42 ms each, which a ProxyCommand's pipes spare it. ms, from the start, on all cores.\n\n" +
            table(["", "runs", "ready p50", "p95", "output p50", "p95"], rows))


# -- what is to be reached -----------------------------------------------------------------------------

class Targets:
    def __init__(self):
        self.rows = []

    def row(self, text, value, limit, show, least=False):
        if value is not None and limit is not None:
            ok = value >= limit if least else value <= limit
            self.rows.append([text, show.format(value), "**reached**" if ok else "**not reached**"])


def tunnel_targets(r, t):
    found = r["tunnel"]
    for way in ("up", "down"):
        for n in (1, 8):
            c = f"{way}/{n}"
            own = of_peer(found, OURS, c, cpu_per_gb())
            for peer, limit, words in (("splice", 1.3, "the bare splice relay's"), ("haproxy", 0.4, "haproxy's"),
                                       ("haproxy-splice", 1.15, "haproxy's with splice")):
                t.row(f"tunnel, {n} {way}: CPU at most {limit} × {words}",
                      ratio(own, of_peer(found, peer, c, cpu_per_gb())), limit, "{:.2f} ×")


def burst_targets(r, t):
    found = r["burst"]
    for peer, words in (("tinyproxy", "tinyproxy's"), ("haproxy-splice", "haproxy's connections, without CONNECT")):
        t.row(f"{r['tunnels']} tunnels at once: no later than {words}",
              ratio(of_peer(found, OURS, "run", field("seconds")), of_peer(found, peer, "run", field("seconds"))), 1.0, "{:.2f} ×")
    t.row("memory of a tunnel: under 1,024 bytes", of_peer(r["held"], OURS, "run", field("memory")), 1024, "{:.0f} bytes")


def banner_targets(r, t):
    found, c = r["banners"], f"{r['queue']} at a time"
    own = of_peer(found, OURS + "-address", c, field("seconds"))
    t.row(f"{r['tunnels']} banners through ours: no later than through haproxy",
          ratio(own, of_peer(found, "haproxy-splice", c, field("seconds"))), 1.0, "{:.2f} ×")
    t.row(f"{r['tunnels']} banners out of sandboxes: no later than from an sshd that listens",
          ratio(of_peer(found, OURS + "-process", c, field("seconds")), of_peer(found, "sshd", c, field("seconds"))), 1.0, "{:.2f} ×")


def health_targets(r, t):
    found = r["health"]
    for n in next(iter(found.values())):
        t.row(f"GET /health, {n} connection{'s' if n != '1' else ''}: requests/s at least nginx's",
              ratio(of_peer(found, OURS, n, field("per_s")), of_peer(found, "nginx", n, field("per_s"))), 1.0, "{:.2f} ×", True)


def first_targets(r, t):
    process, docker = (f"**{OURS}, {b}**" for b in ("process", "docker"))
    t.row("process: ready in 100 ms (p95)", percentile(times_of(r, process, "ready"), 0.95), 100, "{:.1f} ms")
    floor = percentile(times_of(r, "ssh to an sshd that runs", "output"), 0.5)
    t.row("process: first output (p50) at most 100 ms after what ssh alone takes",
          (percentile(times_of(r, process, "output"), 0.5) or 0) - floor if floor else None, 100, "{:.1f} ms")
    for key in ("ready", "output"):
        for how in BY_HAND:
            t.row(f"docker: {key} (p50) no later than {how}",
                  ratio(percentile(times_of(r, docker, key), 0.5), percentile(times_of(r, how, key), 0.5)), 1.0, "{:.2f} ×")


PARTS = {"tunnel": (tunnel, tunnel_targets), "burst": (burst, burst_targets), "health": (health, health_targets),
         "banners": (banners, banner_targets), "first": (first, first_targets)}


def render(r):
    m = r["meta"]
    text = f"""{TITLE}

Written by `./build.sh bench sandbox`, {m['date']}, commit {m['commit']}, {'quick' if m['quick'] else 'full'} run of {m.get('minutes', 0):.1f} minutes.

- {m['machine']}, Linux {m['kernel']}; load average before {m['load']}
- {'; '.join(m['versions'])}
"""
    for why in r["failed"]:
        text += f"- not measured, or in part: {why}\n"
    t = Targets()
    for question, (part, targets) in PARTS.items():
        if r.get(question):
            text += "\n" + part(r)
            targets(r, t)
    if t.rows:
        text += "\n" + table(["target", "measured", ""], t.rows).replace("--:|", "---|")
    return text
