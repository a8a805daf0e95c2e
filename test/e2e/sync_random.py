#!/usr/bin/python3
"""Random concurrent edits on both sides of a sync, with everything going wrong meanwhile; then peace, and
nothing may be lost. test/README.md has more.

    python3 test/e2e/sync_random.py --seeds 1-1000 --jobs 2
    python3 test/e2e/sync_random.py --seed 77 --keep /tmp/look        one again, everything kept
"""
import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import sync_pair  # noqa: E402
from sync_edits import set_immutable  # noqa: E402
from sync_pair import SIDES, Failure  # noqa: E402
from sync_story import Plan, Run, quietly  # noqa: E402


def child(seed, work):
    """One seed in this process: the exit code. What it has to say is in work/failure."""
    plan = Plan(seed)
    run = Run(plan, work)
    try:
        os.setpgid(0, 0)
        log = os.open(work + "/failure", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        trace = os.open(work + "/trace", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        run.make()
        try:
            run.run()
            return 0
        finally:
            with os.fdopen(trace, "w") as f:
                for t, side, words, paths in run.editor.trace if run.editor else ():
                    f.write(f"{t:8.3f} {SIDES[side]:5} {words} {[os.fsdecode(p) for p in paths]!r}\n")
    except Failure as e:
        os.write(log, f"{plan}\n{e}\n".encode("utf-8", "surrogateescape"))
    except BaseException:
        os.write(log, f"{plan}\n{traceback.format_exc()}\n".encode("utf-8", "surrogateescape"))
    return 1


def clear(work, root, keep):
    """The small disks are gone after this: what is to be kept is copied first."""
    libc = ctypes.CDLL(None, use_errno=True)
    for d in (f"{work}/a", f"{work}/b"):
        for top, dirs, files in os.walk(d) if root else ():
            for n in dirs + files:
                quietly(set_immutable, os.path.join(top, n), False)
        if os.path.ismount(d):
            if keep:
                subprocess.run(["cp", "-a", d, d + ".kept"], check=False)
            libc.umount2(d.encode(), 2)  # MNT_DETACH
            if keep:
                os.rmdir(d)
                os.rename(d + ".kept", d)
    if not keep:
        shutil.rmtree(work, ignore_errors=True)


def seeds_of(text):
    found = []
    for part in text.split(","):
        a, _, b = part.partition("-")
        found += range(int(a), int(b or a) + 1)
    return found


def own_programs(top):
    """Copies: a build meanwhile does not disturb, and nobody may run them."""
    os.mkdir(top + "/bin")
    for p in ("tsctl", "guest"):
        shutil.copy2(f"{sync_pair.BIN}/{p}", f"{top}/bin/{p}")
        os.chmod(f"{top}/bin/{p}", 0o755)
    sync_pair.BIN = top + "/bin"


def run_seeds(seeds, jobs, top, limit, stop_after, keep):
    """Prints failures as they come; the seeds that failed."""
    running, failed, slow, todo, began, done = {}, [], [], list(seeds), time.monotonic(), 0
    while todo or running:
        while todo and len(running) < jobs and len(failed) < stop_after:
            seed = todo.pop(0)
            work = f"{top}/{seed}"
            os.makedirs(work)
            os.chmod(work, 0o777)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    code = child(seed, work)
                os._exit(code)
            running[pid] = (seed, work, time.monotonic())
        if not running:
            break
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            seed, work, at = running.pop(pid)
            done += 1
            took = time.monotonic() - at
            slow.append((took, seed))
            if status:
                failed.append(seed)
                with open(work + "/failure", errors="replace") as f:
                    print(f"FAILED {f.read().strip() or f'seed {seed}: status {status}, {took:.0f} s'}\n  kept: {work}\n", flush=True)
            clear(work, Plan(seed).root, keep or status)
            if done % 100 == 0:
                print(f"{done} seeds, {len(failed)} failed, {time.monotonic() - began:.0f} s", flush=True)
        else:
            time.sleep(0.01)
        for pid, (_, work, at) in running.items():
            if time.monotonic() - at > limit:
                with open(work + "/failure", "a") as f:
                    f.write(f"{Plan(running[pid][0])}\nno end after {limit} s\n")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # the seed, its reader and its workers
    print(f"{done} seeds, {len(failed)} failed{': ' + ','.join(map(str, failed)) if failed else ''}; "
          f"{time.monotonic() - began:.0f} s; slowest: " + ", ".join(f"{s} {t:.1f} s" for t, s in sorted(slow)[-3:]), flush=True)
    return failed


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--seeds", default="1-20", metavar="A-B,C", help="which (default 1-20)")
    a.add_argument("--seed", metavar="N", help="only this one")
    a.add_argument("--repeat", type=int, default=1, help="each so often: timing differs")
    a.add_argument("--jobs", type=int, default=2)
    a.add_argument("--keep", metavar="DIR", help="everything of all seeds stays there")
    a.add_argument("--limit", type=int, default=300, help="seconds for one seed")
    a.add_argument("--stop-after", type=int, default=10, metavar="N", help="failures (default 10)")
    o = a.parse_args()
    top = o.keep or tempfile.mkdtemp(prefix="tssync-")
    os.makedirs(top, exist_ok=True)
    os.chmod(top, 0o755)
    if os.geteuid() == 0:  # mounts of our own, which end with us: but a kept failure keeps its files
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 16384 | 1 << 18, None) != 0:
            sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    own_programs(top)
    failed = []
    for i in range(o.repeat):
        sub = f"{top}/r{i}"
        os.mkdir(sub)
        failed += run_seeds(seeds_of(o.seed or o.seeds), o.jobs, sub, o.limit, o.stop_after, o.keep)
    if not failed and not o.keep:
        shutil.rmtree(top, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
