"""The trees that are synced, edits to them, and whether two of them are the same."""
import filecmp
import hashlib
import os
import random
import shutil
import subprocess

MB = 1 << 20


def make(path, files, dirs=200, seed=1):
    """Small files as in a source tree: 1 to 8 KB, most of them at the lower end."""
    rng = random.Random(seed)
    pool = rng.randbytes(1 << 20)
    for d in range(dirs):
        os.makedirs(f"{path}/dir{d:03d}")
    for i in range(files):
        size = min(8192, int(1024 + rng.expovariate(1 / 1500)))
        at = rng.randrange(len(pool) - size)
        with open(f"{path}/dir{i % dirs:03d}/file{i:06d}.c", "wb", buffering=0) as f:
            f.write(b"%016d" % i + pool[at:at + size - 16])


def add_large(path, mb):
    rng = random.Random(2)
    with open(path, "wb", buffering=0) as f:
        for _ in range(mb):
            f.write(rng.randbytes(MB))


def listing(path):
    """{name: (type and mode, size, target)} of everything below."""
    found = {}
    for top, dirs, files in os.walk(path):
        rel = os.path.relpath(top, path)
        for n in dirs + files:
            st = os.lstat(f"{top}/{n}")
            link = os.readlink(f"{top}/{n}") if os.path.islink(f"{top}/{n}") else ""
            found[f"{rel}/{n}"] = (st.st_mode, st.st_size if n in files else 0, link)
        if ".git" in dirs:
            dirs.remove(".git")
    return {n: v for n, v in found.items() if "/.git" not in n}


def why_not_same(a, b, contents=2000):
    """None, or the first difference: names, types, modes and sizes, and the contents of so many."""
    x, y = listing(a), listing(b)
    for n in sorted(x.keys() | y.keys()):
        if x.get(n) != y.get(n):
            return f"{n}: {x.get(n)} and {y.get(n)}"
    names = [n for n, v in x.items() if v[0] >> 12 == 8]
    large = [n for n in names if x[n][1] > MB]
    for n in large + random.Random(3).sample(names, min(contents, len(names))):
        if not filecmp.cmp(f"{a}/{n}", f"{b}/{n}", shallow=False):
            return f"{n}: other content"
    return None


def digest(path):
    h = hashlib.blake2b()
    with open(path, "rb", buffering=0) as f:
        while chunk := f.read(1 << 22):
            h.update(chunk)
    return h.hexdigest()


def remove(*paths):
    for p in paths:
        shutil.rmtree(p, ignore_errors=True)


# -- a repository --------------------------------------------------------------------------------------

def git(path, *args):
    env = dict(os.environ, HOME="/nonexistent", GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="b", GIT_AUTHOR_EMAIL="b@b",
               GIT_COMMITTER_NAME="b", GIT_COMMITTER_EMAIL="b@b")
    subprocess.run(["git", "-C", path, "-c", "gc.auto=0", "-c", "core.fsync=none", *args], check=True, env=env,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_repository(path, files):
    """Branches one and two: a tenth of the files differ, a directory of each twenty has another name,
    some files are gone and some are new."""
    make(path, files)
    git(path, "init", "-q", "-b", "one")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    git(path, "checkout", "-q", "-b", "two")
    rng = random.Random(4)
    dirs = sorted(d for d in os.listdir(path) if d != ".git")
    for d in dirs[::20]:
        os.rename(f"{path}/{d}", f"{path}/renamed-{d}")
    rest = sorted(f"{path}/{d}/{f}" for d in dirs if os.path.isdir(f"{path}/{d}") for f in os.listdir(f"{path}/{d}"))
    for f in rng.sample(rest, files // 10):
        with open(f, "ab") as out:
            out.write(b"changed in two %d\n" % rng.getrandbits(40))
    for f in rng.sample(rest, files // 40):
        os.unlink(f)
    make(f"{path}/new", files // 40, 5, seed=5)
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "two")
    git(path, "checkout", "-q", "one")


# -- changes to the large file -------------------------------------------------------------------------

def change_large(path, how, aside, rng):
    """Returns what makes the change at once; how: written into, appended to, inserted into."""
    new, size = rng.randbytes(MB), os.path.getsize(path)
    if how == "insert":
        with open(path, "rb", buffering=0) as f, open(aside, "wb", buffering=0) as out:
            half = size // 2
            left = half
            while left:
                left -= os.sendfile(out.fileno(), f.fileno(), None, left)
            out.write(new)
            while os.sendfile(out.fileno(), f.fileno(), None, MB << 4):
                pass
        return lambda: os.rename(aside, path)

    def write():
        with open(path, "r+b", buffering=0) as f:
            f.seek(size // 3 + 12345 if how == "write" else size)
            f.write(new)
    return write
