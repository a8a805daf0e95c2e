"""What must hold for a sync that has come to rest, and what a reader may never see."""
import collections
import glob
import os
import stat
import time

from sync_edits import EITHER, KEEP, OURS, SMALL, key, read_fd, why_not_whole
from sync_pair import ALPHA, BETA, SIDES, Failure

PRIVATE = b".tstunnel-sync"
Entry = collections.namedtuple("Entry", "kind mode size mtime what ino ctime links blocks")


def show(e):
    if e is None:
        return "nothing"
    what = e.what.hex()[:8] if e.kind == "f" else repr(e.what) if e.kind == "l" else ""
    size = f" {e.size} bytes" if e.kind == "f" else ""
    return f"{e.kind} {e.mode:o}{size} {what} mtime {e.mtime} ctime {e.ctime} ino {e.ino}"


def name_of(path):
    text = os.fsdecode(path)
    return repr(text if len(text) < 60 else text[:28] + "..." + text[-28:])


def snapshot(root):
    """{path: Entry} of all below root but what is private to the sync."""
    found = {}

    def below(rel):
        try:
            names = os.listdir(os.path.join(root, rel))
        except OSError as e:
            found[os.path.join(rel, b"?")] = Entry("unreadable " + str(e), 0, 0, 0, b"", 0, 0, 0, 0)
            return
        for name in names:
            if not rel and name == PRIVATE:
                continue
            path = os.path.join(rel, name)
            full = os.path.join(root, path)
            st = os.lstat(full)
            kind, what = "o", b""
            if stat.S_ISDIR(st.st_mode):
                kind = "d"
                below(path)
            elif stat.S_ISLNK(st.st_mode):
                kind, what = "l", os.readlink(full)
            elif stat.S_ISREG(st.st_mode):
                kind, what = "f", key(content(full))
            found[path] = Entry(kind, stat.S_IMODE(st.st_mode) if kind in "df" else 0, st.st_size, st.st_mtime_ns, what,
                                st.st_ino, st.st_ctime_ns, st.st_nlink, st.st_blocks)
    below(b"")
    return found


def content(full):
    try:
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b"unreadable"
    try:
        return read_fd(fd)
    finally:
        os.close(fd)


def files_below(top):
    for d, _, names in os.walk(top):
        for n in names:
            full = os.path.join(d, n)
            if stat.S_ISREG(os.lstat(full).st_mode):
                yield full


def private_dirs(root, store, name):
    """Where a side's stage or trash may be: in the store, or below the root when that is elsewhere."""
    return [os.path.join(store, name)] + glob.glob(os.path.join(glob.escape(root), PRIVATE, b"*", name))


def is_ignored(path):
    return any(part.startswith(b"ign-") for part in path.split(b"/"))


def above(path):
    """The path itself, and all that it is in."""
    while path:
        yield path
        path = os.path.dirname(path)


def is_linked(entry, side, ledger):
    """Hard links are files of their own to the sync, but what is done to one of them is done to all."""
    return entry.kind == "f" and (entry.links > 1 or entry.ino in ledger.linked[side])


def differences(trees, mode, ledger):
    """{path: words} of what is not equal and should be, unless it is listed."""
    touched = ledger.touched
    a, b = trees
    found = {}
    for path in sorted(a.keys() | b.keys()):
        x, y = a.get(path), b.get(path)
        if is_ignored(path):
            continue
        if x is None and (y.kind == "o" or mode == "one-way-safe" and is_betas(path, y, touched[BETA])):
            continue
        if y is None and x.kind == "o":
            continue
        words = f"alpha {show(x)}; beta {show(y)}"
        if x is None or y is None or (x.kind, x.what) != (y.kind, y.what):
            found[path] = words
        elif x.kind in "df" and not is_linked(x, ALPHA, ledger) and not is_linked(y, BETA, ledger) and not (mode == "one-way-safe" and path in touched[BETA]):
            if x.mode != y.mode or x.kind == "f" and x.mtime != y.mtime:
                found[path] = words
    return found


def is_betas(path, entry, touched):
    """One-way-safe: something of beta's own, that keeps its parents; or what resolve, keep both, has put
    aside."""
    return b".remote-" in path or any(p in touched for p in above(path)) or \
        entry.kind == "d" and any(p.startswith(path + b"/") for p in touched)


def uncovered(diff, listed, trees):
    """Those that no listed conflict or problem accounts for."""
    def covers(path):
        if any(p in listed for p in above(path)):
            return True
        sides = [t.get(path) for t in trees]
        return None in sides and any(e and e.kind == "d" for e in sides) and \
            any(p.startswith(path + b"/") for p in listed)
    return {p: w for p, w in diff.items() if not covers(p)}


def stale(listed, diff, trees):
    """Conflicts that are listed where both sides are the same."""
    return [p for p, why in listed.items() if why.startswith("conflict") and
            not any(d == p or d.startswith(p + b"/") for d in diff) and
            not any(is_ignored(q) or t[q].kind == "o" for t in trees for q in t if q == p or q.startswith(p + b"/"))]


def undeserved(listed, touched):
    """Conflicts at paths that one side alone has ever edited; but a FIFO may take a file's place."""
    return [p for p, why in listed.items() if why.startswith("conflict") and "device" not in why and not all(
        set(above(p)) & mine or any(q.startswith(p + b"/") for q in mine) for mine in touched)]


def unexplained(listed, trees):
    """Problems that are listed where nothing is to be seen that makes one."""
    odd = []
    for path, why in listed.items():
        if why.startswith("problem"):
            near = [(q, t[q]) for t in trees for q in t if q == path or q.startswith(path + b"/") or path.startswith(q + b"/")]
            if not any(is_ignored(q) or e.kind == "o" for q, e in near):
                odd.append((path, why))
    return odd


def lost(ledger, mode, roots, stores, resolved):
    """Contents that are nowhere, or only in the trash though nobody meant it. resolved: a person has chosen
    which of them go to the trash."""
    trees = [{key(content(f)) for f in files_below(root) if PRIVATE not in f[len(root):].split(b"/")[:2]} for root in roots]
    trash = {key(content(f)) for root, store in zip(roots, stores)
             for d in private_dirs(root, store, b"trash") for f in files_below(d)}
    found = []
    for k, sides in ledger.held.items():
        gone = ledger.gone.get(k, set())
        born = ledger.places[k][0][0]
        one_way = mode.startswith("one-way") and not resolved
        if one_way and ALPHA in sides and born == ALPHA:
            if k not in trees[ALPHA] and ALPHA not in gone and not ledger.is_unsure(k):
                found.append((k, "is not at alpha any more, which a one-way sync never changes"))
            continue
        if k in trees[ALPHA] or k in trees[BETA] or ledger.is_unsure(k):
            continue
        if k in trash:
            places = ledger.places[k]
            kept = mode == "two-way-safe" or mode == "two-way-resolved" and \
                not any(s == BETA or set(above(p)) & ledger.touched[BETA] for s, p in places)
            if kept and not gone and k not in ledger.late and not resolved:
                found.append((k, "is only in the trash, and no edit put it there"))
        elif not sides <= gone:
            found.append((k, "is nowhere, held by " + " and ".join(SIDES[s] for s in sides) +
                          (", destroyed at " + SIDES[min(gone)] if gone else "")))
    if mode.startswith("one-way") and not resolved:
        for k in trees[ALPHA]:
            if k in ledger.places and all(side == BETA for side, _ in ledger.places[k]):
                found.append((k, "came to alpha, which a one-way sync never changes"))
    return found


def strangers(trees):
    """Names that neither an edit nor the sync as documented can have made."""
    return [f"{SIDES[s]}:{os.fsdecode(p)}" for s, t in enumerate(trees) for p in t
            if not os.path.basename(p).startswith(OURS)]


def leftovers(roots, stores):
    """Files in a stage that nobody will resume."""
    return [os.fsdecode(f) + f" ({os.path.getsize(f)} bytes)" for root, store in zip(roots, stores)
            for d in private_dirs(root, store, b"stage") for f in files_below(d)
            if not os.path.basename(f).startswith(b"p") or os.path.getsize(f) < 1 << 20]


def not_sparse(trees, ledger):
    return [f"{name_of(p)}: {x.blocks} and {y.blocks} blocks" for p, x in trees[ALPHA].items()
            for y in [trees[BETA].get(p)] if y and x.kind == y.kind == "f" and x.what == y.what and
            x.what in ledger.sparse and max(x.blocks, y.blocks) * 512 > x.size // 2]


def same_files(trees, side, after, ledger):
    """What has changed at a side between two snapshots, down to inode and ctime; but for hard links,
    where a restart sees what has been done to the other ones. (Blocks on disk come and go by themselves.)"""
    linked = {p for s, t in enumerate(trees) for p in t if is_linked(t[p], s, ledger)}
    around = {os.path.dirname(p) for p in linked}  # the times of which change with them
    before, after = ({p: e._replace(blocks=0, **({"mtime": 0, "ctime": 0} if p in around else {})) for p, e in t.items()}
                     for t in (trees[side], after))
    alone = (before.keys() | after.keys()) - linked
    return [f"{name_of(p)}: {show(before.get(p))} -> {show(after.get(p))}"
            for p in sorted(alone) if before.get(p) != after.get(p)]


def read_always(roots, out, keep_sides):
    """The reader process: walks both trees for ever, and tells what was not whole, or not there."""
    seen = set()

    def say(side, path, what):
        os.write(out, f"{SIDES[side]}:{os.fsdecode(path)!r}: {what}\n".encode("utf-8", "replace"))

    def read(side, path):
        fd = os.open(os.path.join(roots[side], path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                why = why_not_whole(read_fd(fd))
                if why:
                    say(side, path, why)
        finally:
            os.close(fd)

    def look(side, rel):
        for side_of_keep in keep_sides:
            try:
                read(side_of_keep, KEEP)
                seen.add(side_of_keep)
            except FileNotFoundError:
                if side_of_keep in seen:
                    say(side_of_keep, KEEP, "was there, always replaced, and is missing for an instant")
        try:
            entries = list(os.scandir(os.path.join(roots[side], rel)))
        except OSError:
            return
        for e in entries:
            path = os.path.join(rel, e.name)
            if e.name == PRIVATE and not rel:
                continue
            try:
                if e.is_dir(follow_symlinks=False):
                    look(side, path)
                elif e.name.startswith(b"s-") or e.name in EITHER:
                    read(side, path)
            except OSError:
                pass
            if not e.name.startswith(OURS):
                say(side, path, "is no name of ours")
    while True:
        for side in (ALPHA, BETA):
            look(side, b"")
            time.sleep(0.002)


def trash_of_alpha(roots, stores):
    return [os.fsdecode(f) for d in private_dirs(roots[ALPHA], stores[ALPHA], b"trash") for f in files_below(d)]


def fail(title, lines, editor=None, paths=()):
    """Failure with what is known of the first of the paths in the trace of edits."""
    text = [title] + [f"  {line}" for line in list(lines)[:12]]
    wanted = {p for path in list(paths)[:3] for p in above(path)}
    shown = editor and [f"  {t:8.3f} {SIDES[s]:5} {words} {' '.join(name_of(p) for p in ps)}" for t, s, words, ps in editor.trace
                        if not ps and words.startswith("==") or any(p in wanted for p in ps)]
    text += ["  edits there:"] + shown[-30:] if shown else []
    raise Failure("\n".join(text))


assert SMALL < 64  # no self-describing file is too small to be followed
