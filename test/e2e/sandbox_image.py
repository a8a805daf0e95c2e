"""An image for sandboxes as images/sandbox describes it, without a registry: a tar of this machine's
own files (busybox, bash, sshd, Python) with the real entrypoint and sshd_config. Made once."""
import fcntl
import io
import os
import re
import subprocess
import tarfile
import tempfile

from lab import ROOT, run

BINARIES = ["/usr/sbin/sshd", "/usr/bin/ssh-keygen", "/usr/bin/bash", "/usr/bin/setsid", "/usr/bin/python3.11"]
SKIP = re.compile(r"/(test|tests|idlelib|ensurepip|lib2to3|pydoc_data|distutils|dist-packages|__pycache__|config-[^/]*)(/|$)")
CONFIG = ['ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]', "WORKDIR /workspace",
          "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]


def libraries(path):
    r = subprocess.run(["ldd", path], capture_output=True, text=True)
    return re.findall(r"(/\S+) \(0x", r.stdout)


def write(path):
    added = set()
    python = os.path.realpath("/usr/bin/python3")
    version = os.path.basename(python)
    with tarfile.open(path, "w") as tar:
        def add(name, data=b"", mode=0o755, type=tarfile.REGTYPE, link="", uid=0):
            if name in added:
                return
            added.add(name)
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.type, info.linkname, info.uid, info.gid = len(data), mode, type, link, uid, uid
            tar.addfile(info, io.BytesIO(data))

        def copy(source, name=None):
            name = (name or source).lstrip("/")
            name = re.sub(r"^(bin|sbin|lib|lib64)/", r"usr/\1/", name)
            with open(source, "rb") as f:
                add(name, f.read(), os.stat(source).st_mode & 0o777)

        def directory(name, mode=0o755, uid=0):
            add(name, mode=mode, type=tarfile.DIRTYPE, uid=uid)

        for d in ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local", "usr/local/bin", "etc",
                  "etc/ssh", "root", "dev", "proc", "sys", "run", "var", "var/empty"):
            directory(d)
        directory("tmp", 0o1777)
        directory("workspace", uid=1000)
        for d in ("bin", "sbin", "lib", "lib64"):
            add(d, type=tarfile.SYMTYPE, link="usr/" + d)
        binaries = [b if "python" not in b else python for b in BINARIES]
        lib = f"/usr/lib/{version}"
        modules = []
        for top, dirs, files in os.walk(lib):
            dirs[:] = [d for d in dirs if not SKIP.search(f"/{d}/")]
            for f in files:
                if not SKIP.search(top + "/") and not f.endswith((".a", ".pyc")):
                    modules.append(os.path.join(top, f))
        for b in binaries:
            copy(b)
        for m in modules:
            copy(m)
        for b in binaries + [m for m in modules if m.endswith(".so")]:
            for so in libraries(b):
                copy(so)
        for link in ("python3", "python"):
            add(f"usr/bin/{link}", type=tarfile.SYMTYPE, link=os.path.basename(python))
        copy("/bin/busybox", "usr/bin/busybox")
        for applet in run("/bin/busybox", "--list").stdout.split():
            add(f"usr/bin/{applet}", type=tarfile.SYMTYPE, link="busybox")
        hashed = run("openssl", "passwd", "-6", "sandbox").stdout.strip()
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"
                          b"sandbox:x:1000:1000::/workspace:/bin/bash\n", 0o644)
        add("etc/group", b"root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n", 0o644)
        add("etc/shadow", f"root:*:19000::::::\nsshd:!:19000::::::\nsandbox:{hashed}:19000:0:99999:7:::\n".encode(), 0o600)
        add("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n", 0o644)
        copy(os.path.join(ROOT, "images/sandbox/sshd_config"), "etc/ssh/sshd_config")
        copy(os.path.join(ROOT, "images/sandbox/entrypoint.sh"), "usr/local/bin/entrypoint.sh")


def tarball():
    """The tar's path; made anew when the entrypoint or the configuration changed."""
    sources = [os.path.join(ROOT, "images/sandbox", f) for f in ("entrypoint.sh", "sshd_config")] + [__file__]
    path = os.path.join(tempfile.gettempdir(), f"pico-sandbox-image-{os.geteuid()}.tar")
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(os.path.getmtime(s) for s in sources)
        if not os.path.exists(path) or os.path.getmtime(path) < newest:
            write(path + ".new")
            os.rename(path + ".new", path)
    return path


def load(lab, name="sandbox:latest"):
    """Gives the lab's engine the image."""
    host = ["-H", "unix://" + lab.engine_socket]
    if run(lab.cli, *host, "image", "inspect", name, env=lab.env, check=False).returncode != 0:
        changes = [a for c in CONFIG for a in ("-c", c)]
        run(lab.cli, *host, "import", *changes, tarball(), name, env=lab.env, timeout=180)
