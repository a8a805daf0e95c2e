"""Seeded edits on both sides of a sync, and the ledger of every content that they wrote or destroyed."""
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import random
import stat
import struct
import time
import zlib

from sync_pair import ALPHA, BETA, SIDES

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCHANGE = -100, 1, 2
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE = 0x80086601, 0x40086602, 0x10
SMALL = 16  # contents up to here are not followed: they are no one's own

DIRS = [b"", b"d0", b"d1", b"d0/e0", b"d0/e1", b"d1/e0", b"d0/e0/d2", b"x-2", b"x-3", b"d1/d-\xff\xfe"]
# Written by rename only, so never to be seen in part: s-, x- (file or directory), keep. In place: i-.
WHOLE = [b"s-%d" % n for n in range(8)] + [b"s-\xe2\x82\xac %41\"\\\n", b"s-\xff\xc0", b"s-" + b"n" * 253, b"s-\xc3\xbc"]
PLACE = [b"i-%d" % n for n in range(5)]
EITHER = [b"x-%d" % n for n in range(4)]
LINKS = [b"l-%d" % n for n in range(3)]
KEEP = b"keep"
OURS = (b"s-", b"x-", b"i-", b"l-", b"d", b"e", b"m-", b"keep", b"tmp-", b"ign-")


def key(data):
    return hashlib.blake2b(data, digest_size=12).digest()


def whole(rng, ident, body):
    """A file that describes itself: header and trailer tell whether all of it is there."""
    head = b"TS1 %016x %012d %08x\n" % (ident, len(body), zlib.crc32(body))
    return head + body + b"\nEND %016x\n" % ident


def why_not_whole(data):
    """None, or what is wrong with it."""
    if len(data) < 64 or data[:4] != b"TS1 ":
        return f"no header in {len(data)} bytes, start {data[:40]!r}"
    ident, length, crc = data[4:20], int(data[21:33]), int(data[34:42], 16)
    if len(data) != 43 + length + 22:
        return f"{len(data)} bytes, the header says {43 + length + 22}"
    if data[-22:] != b"\nEND " + ident + b"\n":
        return f"another file's trailer: {data[-22:]!r} of {ident!r}"
    if zlib.crc32(data[43:-22]) != crc:
        return "another checksum"
    return None


class Ledger:
    """held: who had a content (as told by a write there, or by both sides being equal). gone: where
    an edit destroyed it. A content that is gone wherever it was held may be nowhere."""

    def __init__(self):
        self.held, self.gone, self.places, self.late = {}, {}, {}, set()
        self.unsure = set()  # paths at which something unknown was destroyed
        self.sparse = set()
        self.touched = (set(), set())
        self.linked = (set(), set())  # inodes that had two names

    def wrote(self, side, path, data, late=False):
        if len(data) > SMALL:
            k = key(data)
            self.held.setdefault(k, set()).add(side)
            self.places.setdefault(k, []).append((side, path))
            if late:
                self.late.add(k)

    def saw(self, side, k):
        if k in self.held:
            self.held[k].add(side)

    def destroyed(self, side, data):
        self.gone.setdefault(key(data), set()).add(side)

    def is_unsure(self, k):
        return any(path in self.unsure for _, path in self.places.get(k, ()))

    def names(self, k):
        return ", ".join(f"{SIDES[s]}:{os.fsdecode(p)[-60:]!r}" for s, p in self.places.get(k, ())[:4])


class Editor:
    """step(n) does edit n of the seed: what it tries depends on seed and n alone."""

    def __init__(self, seed, roots, scratch, ledger, one_way):
        """scratch: per side, a folder on the root's filesystem."""
        self.seed, self.roots, self.scratch, self.ledger, self.one_way = seed, roots, scratch, ledger, one_way
        self.trace, self.serial, self.began = [], 0, time.monotonic()
        ops = {self.write: 22, self.replace: 8, self.append: 8, self.poke: 7, self.truncate: 3, self.move: 9,
               self.move_dir: 4, self.delete: 9, self.make_dir: 6, self.remove_dir: 2, self.remove_tree: 3,
               self.change_mode: 6, self.symlink: 5, self.swap: 5, self.exchange: 2, self.hard_link: 3, self.hole: 3,
               self.large: 3, self.large_edit: 4, self.touch: 4, self.many: 2, self.copy: 3, self.ignored: 2,
               self.fifo: 1, self.keep: 6, self.same: 3}
        self.ops, self.weights = list(ops), list(ops.values())

    def step(self, n, side=None):
        self.rng = random.Random(f"{self.seed}/{n}")
        self.side = self.rng.randrange(2) if side is None else side
        if self.one_way and self.rng.random() < 0.3:
            self.side = ALPHA
        op = self.rng.choices(self.ops, self.weights)[0]
        self.note(f"#{n} {op.__name__}")
        try:
            op()
        except OSError as e:
            self.note(f"   {errno.errorcode.get(e.errno, e.errno)}")

    def note(self, text, *paths):
        self.trace.append((time.monotonic() - self.began, self.side, text, paths))
        for p in paths:
            self.ledger.touched[self.side].add(p)

    # -- names ------------------------------------------------------------------------------------------

    def path(self, names):
        d = self.existing(lambda: self.rng.choice(DIRS), 4) if self.rng.random() < 0.75 else b""
        return os.path.join(d, self.rng.choice(names))

    def existing(self, choose, tries=15):
        """One of choose() that is there, if some tries find one."""
        for _ in range(tries):
            path = choose()
            if os.path.lexists(self.full(path)):
                break
        return path

    def found(self, names):
        return self.existing(lambda: self.path(names))

    def found_dir(self):
        return self.existing(lambda: self.rng.choice(DIRS[1:]))

    def any_path(self):
        return self.existing(lambda: self.path(self.rng.choice([WHOLE, WHOLE, PLACE, EITHER, LINKS])))

    def full(self, path):
        return os.path.join(self.roots[self.side], path)

    def ident(self):
        return self.rng.getrandbits(60) << 4 | self.side

    def body(self):
        size = self.rng.choice([0, 10, 300, 3000, 3000, 5000, 20000])
        if self.rng.random() < 0.1:  # beside the limits of the protocol
            size = self.rng.choice([65536, 262144, 1048576]) - 65 + self.rng.randrange(-1, 2)
        return self.rng.randbytes(size)

    # -- what others are made of ------------------------------------------------------------------------

    def opened(self, path):
        """(fd, links) of the regular file there; (None, 0)."""
        with contextlib.suppress(OSError):
            fd = os.open(self.full(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            st = os.fstat(fd)
            if stat.S_ISREG(st.st_mode):
                return fd, st.st_nlink
            os.close(fd)
        return None, 0

    @contextlib.contextmanager
    def destroying(self, path):
        """Around a call that removes or replaces the file at path: what it was is known afterwards. If
        the sync put another there at the last moment, the file we had is still whole."""
        fd, links = self.opened(path)
        unknown = fd is None and not self.is_no_file(path)
        try:
            yield
            if fd is not None and os.fstat(fd).st_nlink < links:
                self.ledger.destroyed(self.side, read_fd(fd))
            elif fd is not None or unknown:
                self.ledger.unsure.add(path)
                self.note("   replaces what is not known", path)
        finally:
            if fd is not None:
                os.close(fd)

    def is_no_file(self, path):
        with contextlib.suppress(OSError):
            return not stat.S_ISREG(os.lstat(self.full(path)).st_mode)
        return False

    def unlink(self, path):
        with self.destroying(path):
            os.unlink(self.full(path))

    def rename_over(self, source, path):
        """rename(2), but where nothing seems to be, nothing is replaced."""
        for _ in range(5):
            if os.path.lexists(self.full(path)):
                with self.destroying(path):
                    return os.rename(source, self.full(path))
            if libc.renameat2(AT_FDCWD, source, AT_FDCWD, self.full(path), RENAME_NOREPLACE) == 0:
                return None
            if ctypes.get_errno() != errno.EEXIST:
                raise OSError(ctypes.get_errno(), "renameat2")
        raise OSError(errno.EEXIST, "renameat2")

    def put(self, path, data, sparse=False):
        """Writes as careful programs do: beside it (or elsewhere), then rename."""
        if self.rng.random() < 0.5:
            tmp = os.path.join(os.path.dirname(self.full(path)), b"tmp-%d" % self.rng.randrange(1000))
        else:
            self.serial += 1
            tmp = os.path.join(self.scratch[self.side], b"t%d" % self.serial)
        try:
            fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self.rng.choice([0o644, 0o644, 0o600, 0o755]))
            try:
                write_all(fd, data, sparse)
            finally:
                os.close(fd)
            self.ledger.touched[self.side].add(os.path.relpath(tmp, self.roots[self.side]))
            self.rename_over(tmp, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(tmp)
            raise
        self.ledger.wrote(self.side, path, data)
        if sparse:
            self.ledger.sparse.add(key(data))
        self.note(f"   put {len(data)} bytes {key(data).hex()[:8]}", path)

    @contextlib.contextmanager
    def in_place(self, flags=os.O_RDWR):
        path = self.found(PLACE) if self.rng.random() < 0.8 else self.path(PLACE)
        fd = os.open(self.full(path), flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            before = read_fd(fd)
            try:
                yield fd
            finally:
                data = read_fd(fd)
                if data != before:
                    self.ledger.destroyed(self.side, before)
                late = True
                with contextlib.suppress(OSError):
                    late = os.lstat(self.full(path)).st_ino != os.fstat(fd).st_ino
                self.ledger.wrote(self.side, path, data, late)
                self.note(f"   in place, {len(data)} bytes {key(data).hex()[:8]}{' (too late)' if late else ''}", path)
        finally:
            os.close(fd)

    # -- edits ------------------------------------------------------------------------------------------

    def write(self):
        self.put(self.path(self.rng.choice([WHOLE, WHOLE, EITHER])), whole(self.rng, self.ident(), self.body()))

    def replace(self):
        """A name that surely is used often: both sides at one path."""
        self.put(self.rng.choice([b"s-0", b"s-1", b"d0/s-0"]), whole(self.rng, self.ident(), self.body()))

    def same(self):
        """The same content on both sides, by itself."""
        path, data = self.path(WHOLE), whole(self.rng, self.ident(), self.body())
        for self.side in (ALPHA,) if self.one_way else (ALPHA, BETA):
            with contextlib.suppress(OSError):
                self.put(path, data)

    def keep(self):
        self.side = ALPHA
        self.put(KEEP, whole(self.rng, self.ident(), self.body()))

    def append(self):
        with self.in_place(os.O_RDWR | os.O_CREAT) as fd:
            os.lseek(fd, 0, os.SEEK_END)
            write_all(fd, b"%016x" % self.ident() + self.body())

    def poke(self):
        with self.in_place() as fd:
            size = os.fstat(fd).st_size
            os.lseek(fd, self.rng.randrange(size + 1), os.SEEK_SET)
            write_all(fd, b"%016x" % self.ident())

    def truncate(self):
        with self.in_place() as fd:
            os.ftruncate(fd, self.rng.randrange(os.fstat(fd).st_size + 1))

    def hole(self):
        if self.rng.random() < 0.5:
            body = bytearray(1 << 20)
            body[:100] = self.rng.randbytes(100)
            body[-5000:] = self.rng.randbytes(5000)
            return self.put(self.path(WHOLE), whole(self.rng, self.ident(), bytes(body)), sparse=True)
        with self.in_place(os.O_RDWR | os.O_CREAT) as fd:
            os.lseek(fd, 300000, os.SEEK_END)
            write_all(fd, b"%016x" % self.ident())

    def large(self):
        self.put(self.path(WHOLE), whole(self.rng, self.ident(), self.rng.randbytes(self.rng.randrange(900000, 2500000))))

    def large_edit(self):
        """A large file with a change in the middle, if there is one."""
        for path in self.rng.sample([os.path.join(d, n) for d in DIRS for n in WHOLE[:8]], 80):
            fd, _ = self.opened(path)
            if fd is None:
                continue
            data = read_fd(fd)
            os.close(fd)
            if len(data) > 400000 and why_not_whole(data) is None:
                body, at = data[43:-22], len(data) // 2
                cut = self.rng.choice([0, 0, 700])
                return self.put(path, whole(self.rng, self.ident(), body[:at] + self.rng.randbytes(1000) + body[at + cut:]))

    def many(self):
        d = self.rng.choice(DIRS[:4])
        for i in range(self.rng.randrange(20, 120)):
            path = os.path.join(d, b"m-%d" % i)
            data = whole(self.rng, self.ident(), self.rng.randbytes(self.rng.randrange(200)))
            with contextlib.suppress(FileExistsError):
                fd = os.open(self.full(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                write_all(fd, data)
                late = not os.path.lexists(self.full(path)) or os.lstat(self.full(path)).st_ino != os.fstat(fd).st_ino
                os.close(fd)
                self.ledger.wrote(self.side, path, data, late)
                self.ledger.touched[self.side].add(path)
        self.note(f"   many below {d!r}", d)

    def copy(self):
        """The content of one path to another: the sync may find it by its digest."""
        fd, _ = self.opened(self.found(WHOLE))
        if fd is not None:
            data = read_fd(fd)
            os.close(fd)
            self.ledger.sparse.discard(key(data))  # the copy is not
            self.put(self.path(WHOLE), data)

    def move(self):
        names = self.rng.choice([WHOLE, PLACE, EITHER])
        a, b = self.found(names), self.path(names)
        fd, _ = self.opened(a)
        try:
            self.rename_over(self.full(a), b)
        except OSError:
            if fd is not None:
                os.close(fd)
            raise
        self.note(f"   to {b!r}", a, b)
        if fd is not None:
            self.ledger.wrote(self.side, b, read_fd(fd))
            os.close(fd)

    def move_dir(self):
        a, b = self.found_dir(), self.rng.choice(DIRS[1:])
        os.rename(self.full(a) + b"/", self.full(b) + b"/")  # nothing but a directory
        self.note(f"   to {b!r}", a, b)

    def delete(self):
        path = self.any_path()
        self.unlink(path)
        self.note("   gone", path)

    def make_dir(self):
        path = self.rng.choice(DIRS[1:])
        os.makedirs(self.full(path), self.rng.choice([0o755, 0o755, 0o700]))
        self.note("   made", path)

    def remove_dir(self):
        path = self.found_dir()
        os.rmdir(self.full(path))
        self.note("   gone", path)

    def remove_tree(self, path=None):
        path = path or self.found_dir()
        if os.path.islink(self.full(path)):
            return
        self.note("   rm -r", path)
        for top, dirs, files in os.walk(self.full(path), topdown=False):
            rel = os.path.relpath(top, self.roots[self.side])
            for name in files + [d for d in dirs if os.path.islink(os.path.join(top, d))]:
                with contextlib.suppress(OSError):
                    self.unlink(os.path.join(rel, name))
                self.ledger.touched[self.side].add(os.path.join(rel, name))
            with contextlib.suppress(OSError):
                os.rmdir(top)

    def change_mode(self):
        if self.rng.random() < 0.3:
            path, mode = self.found_dir(), self.rng.choice([0o755, 0o700, 0o750])
        else:
            path, mode = self.any_path(), self.rng.choice([0o644, 0o600, 0o755, 0o444])
        st = os.lstat(self.full(path))
        if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 or stat.S_ISDIR(st.st_mode):
            os.chmod(self.full(path), mode | (0o700 if stat.S_ISDIR(st.st_mode) else 0))
            self.note(f"   {mode:o}", path)

    def touch(self):
        path = self.any_path()
        st = os.lstat(self.full(path))
        if stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
            t = self.rng.randrange(10**18, 17 * 10**17)
            os.utime(self.full(path), ns=(t, t), follow_symlinks=False)
            self.note("   mtime", path)

    def symlink(self):
        path = self.path(self.rng.choice([LINKS, LINKS, EITHER]))
        targets = [b"s-0", b"nowhere-%d" % self.rng.randrange(100), b"/no/where", b"\xff" * 200]
        if os.path.basename(path) in LINKS:  # never used as a directory: edits must stay inside
            targets += [b"..", b"d0/e0", b"/etc/passwd"]
        target = self.rng.choice(targets)
        with contextlib.suppress(FileNotFoundError):
            self.unlink(path)
        os.symlink(target, self.full(path))
        self.note(f"   -> {target[:20]!r}", path)

    def hard_link(self):
        a, b = self.found(WHOLE), self.path(WHOLE)
        os.link(self.full(a), self.full(b), follow_symlinks=False)
        self.ledger.linked[self.side].add(os.lstat(self.full(b)).st_ino)
        self.note(f"   {b!r} linked", a, b)

    def swap(self):
        """A file becomes a directory, or the reverse."""
        path = self.path(EITHER)
        if os.path.isdir(self.full(path)) and not os.path.islink(self.full(path)):
            self.remove_tree(path)
            self.put(path, whole(self.rng, self.ident(), self.body()))
        else:
            with contextlib.suppress(FileNotFoundError):
                self.unlink(path)
            os.mkdir(self.full(path))
            self.note("   a directory now", path)
            self.put(path + b"/s-0", whole(self.rng, self.ident(), self.body()))

    def exchange(self):
        a, b = self.found(EITHER), self.found(EITHER)
        fds = self.opened(a)[0], self.opened(b)[0]
        if libc.renameat2(AT_FDCWD, self.full(a), AT_FDCWD, self.full(b), RENAME_EXCHANGE) == 0:
            self.note(f"   with {b!r}", a, b)
            for fd, path in zip(fds, (b, a)):
                if fd is not None:
                    self.ledger.wrote(self.side, path, read_fd(fd))
        for fd in fds:
            if fd is not None:
                os.close(fd)

    def ignored(self):
        """Left alone by the sync, on whichever side it is."""
        path = self.path([b"ign-0", b"ign-1"])
        self.put(path, whole(self.rng, self.ident(), self.body()))

    def fifo(self):
        path = self.path(EITHER)
        os.mkfifo(self.full(path))
        self.note("   a FIFO", path)


def read_fd(fd):
    data, at = b"", 0
    while chunk := os.pread(fd, 1 << 22, at):
        data += chunk
        at += len(chunk)
    return data


def write_all(fd, data, sparse=False):
    if sparse:
        at = os.lseek(fd, 0, os.SEEK_CUR)
        for i in range(0, len(data), 4096):
            page = data[i:i + 4096]
            if page.strip(b"\0"):
                os.pwrite(fd, page, at + i)
        os.ftruncate(fd, at + len(data))
        return
    while data:
        data = data[os.write(fd, data):]


def set_immutable(full, on):
    """chattr +i: what denies even root."""
    fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags, = struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("I", 0)))
        flags = flags | FS_IMMUTABLE if on else flags & ~FS_IMMUTABLE
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))
    finally:
        os.close(fd)
