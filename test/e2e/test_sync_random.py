"""Random concurrent edits under faults, on the two workers of a sync: sync_random.py with a few seeds."""
import os
import subprocess
import sys

import pytest
from lab import BIN, FULL, SAN

HERE = os.path.dirname(os.path.abspath(__file__))


def run_seeds(*args, timeout):
    r = subprocess.run([sys.executable, "-B", HERE + "/sync_random.py", "--stop-after", "3", *args], capture_output=True, text=True,
                       timeout=timeout, stdin=subprocess.DEVNULL, env=dict(os.environ, TSTUNNEL_BIN=BIN))
    assert r.returncode == 0, f"{r.stdout[-6000:]}\n{r.stderr[-2000:]}"
    return r.stdout


@pytest.mark.tunnel
def test_nothing_is_lost():
    """1,000 seeds at full size; some minutes each 100 with sanitizers."""
    seeds = "1-1000" if FULL else "1-6" if SAN else "1-12"
    assert " 0 failed" in run_seeds("--seeds", seeds, "--jobs", "2", timeout=7200 if FULL else 600)
