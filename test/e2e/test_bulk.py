"""Gigabytes: they arrive whole, and our programs stay small."""
import hashlib
import os
import subprocess

import pytest
from lab import DIRECT, FULL, SAN

MB = 1000 if FULL else 200


@pytest.mark.skipif(SAN and not FULL, reason="a bulk test for optimised programs")
def test_save_and_load_of_a_large_image(docker1, lab, tmp_path):
    tag = "large:" + lab.name()
    name = lab.name()
    docker1("run", "--name", name, "bb", "sh", "-c",
            f"head -c {MB}000000 /dev/urandom > /blob; sha256sum /blob", timeout=120)
    want = docker1.out("logs", name).split()[0]
    docker1("commit", name, tag, timeout=120)
    docker1("rm", name)
    tar = tmp_path / "image.tar"
    with open(tar, "wb") as f:
        subprocess.run([docker1.cli, "save", tag], env=docker1.env, stdout=f, check=True, timeout=300)
    assert os.path.getsize(tar) > MB * 1_000_000
    docker1("rmi", tag)
    with open(tar, "rb") as f:
        subprocess.run([docker1.cli, "load"], env=docker1.env, stdin=f, stdout=subprocess.DEVNULL,
                       check=True, timeout=300)
    assert docker1.out("run", "--rm", tag, "sha256sum", "/blob", timeout=120).split()[0] == want
    docker1("rmi", tag)
    os.unlink(tar)
    if not DIRECT and not SAN:
        assert lab.tsctl.memory() < 32, "peak memory of tsctl in MiB"
        assert lab.guest.memory() < 32, "peak memory of guest in MiB"


def test_cp_of_a_large_file(docker1, tmp_path):
    name = docker1.sleeper()
    size = 64 << 20
    data = os.urandom(1 << 20)
    with open(tmp_path / "f", "wb") as f:
        for _ in range(size >> 20):
            f.write(data)
    want = hashlib.sha256(data * (size >> 20)).hexdigest()
    docker1("cp", tmp_path / "f", f"{name}:/f")
    assert docker1.out("exec", name, "sha256sum", "/f").split()[0] == want
    docker1("cp", f"{name}:/f", tmp_path / "g")
    assert hashlib.sha256((tmp_path / "g").read_bytes()).hexdigest() == want
