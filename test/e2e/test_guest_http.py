"""The guest's plain endpoints and who may use them."""
import contextlib
import json
import os
import select
import socket
import stat
import struct

import pytest
from lab import HOST, REMOTE, wait_for
from wire import (Carrier, DATA, TIMEOUT, raw, request, tls_context)

pytestmark = pytest.mark.tunnel


def test_max_connections(lab):
    g = lab.start_guest("--max-connections", "2", mtls=False)

    def served(keep):
        try:
            s = socket.create_connection((REMOTE, g.port), TIMEOUT)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            ok = s.recv(4096).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False
        if ok and keep:
            return s
        s.close()
        return ok
    # The lab's own look at the port may still count.
    first = wait_for(lambda: served(True), 5)
    second = wait_for(lambda: served(True), 5)
    assert not served(False)
    first.close()
    wait_for(lambda: served(False), 5, "a place again")
    second.close()
    with Carrier(g) as a, Carrier(g) as b:
        assert a.alive() and b.alive()
        with Carrier(g, settings=False) as c:
            assert c.status.startswith(b"HTTP/1.1 503 ")


@pytest.fixture
def rooted(lab):
    """A guest that runs no commands and takes files into one directory."""
    root = lab.path(lab.name())
    os.mkdir(root)
    g = lab.start_guest("--no-exec", "--sync-root", root, mtls=False)
    g.root = root
    return g


def copy(guest, path, mode="0644", body=b"new"):
    return request(guest, "POST", f"/tinyscale/v1/host-exec/copy?path={path}&mode={mode}", body)[0]


def directories(guest, *paths):
    return request(guest, "POST", "/tinyscale/v1/host-exec/directories", json.dumps(paths))[0]


def test_sync_root(rooted):
    root = rooted.root
    assert directories(rooted, root, root + "/a/b", root + "//a/./c/") == 200
    assert copy(rooted, root + "/a/b/file", "0600") == 200
    assert open(root + "/a/b/file").read() == "new" and os.stat(root + "/a/b/file").st_mode & 0o7777 == 0o600
    assert copy(rooted, root + "/a/b/tool", "4755") == 200
    assert stat.S_IMODE(os.stat(root + "/a/b/tool").st_mode) == 0o755, "a set-user-id program from who may run none"
    assert copy(rooted, root + "/a") == 409 and copy(rooted, root + "/none/x") == 404
    assert copy(rooted, f"{root}/{'n' * 256}") == 400 and copy(rooted, f"{root}/{'n' * 256}/x") == 400
    assert sorted(os.listdir(root + "/a/b")) == ["file", "tool"], "a temporary file stayed"


def test_nothing_outside_the_sync_root(lab, rooted):
    root, out = rooted.root, lab.path(lab.name())
    os.mkdir(out)
    os.mkdir(rooted.root + "-sibling")
    os.symlink(out, root + "/link")
    with open(out + "/target", "w") as f:
        f.write("old")
    os.symlink(out + "/target", root + "/last")
    for path in (out + "/x", "/x", root + "-sibling/x", f"{root}/../{os.path.basename(out)}/x", root + "/link/x",
                 root + "/link/../x", f"{root}/link//x", root):
        assert copy(rooted, path) in (400, 403, 404), path
        assert directories(rooted, path + "/d") in (400, 403, 404) or path == root, path
    assert os.listdir(out) == ["target"] and os.listdir(root + "-sibling") == []
    assert copy(rooted, root + "/last") == 200
    assert open(out + "/target").read() == "old", "written through a symlink"
    assert open(root + "/last").read() == "new" and not os.path.islink(root + "/last")


def test_no_exec_without_a_root_takes_no_files(lab):
    g = lab.start_guest("--no-exec", mtls=False)
    assert copy(g, lab.path("x")) == 403 and directories(g, lab.path("y")) == 403
    assert not os.path.exists(lab.path("x")) and not os.path.exists(lab.path("y"))


def half_a_copy(guest, path):
    """A request whose body is on its way; the socket, when the worker writes it."""
    s = socket.create_connection((REMOTE, guest.port), TIMEOUT)
    s.sendall(f"POST /tinyscale/v1/host-exec/copy?path={path} HTTP/1.1\r\nHost: x\r\n"
              "Content-Length: 1000000\r\n\r\n".encode() + b"z" * 5000)

    def written():
        folder = os.path.dirname(path)
        return any(f.startswith(".tstunnel") and os.path.getsize(f"{folder}/{f}") for f in os.listdir(folder))
    wait_for(written, 5, "the worker's temporary file")
    return s


@pytest.mark.parametrize("how", ["client goes", "guest killed", "guest stopped"])
def test_half_a_body_never_becomes_a_file(lab, how):
    g = lab.start_guest("--grace", "0s", mtls=False)
    folder = lab.path(lab.name())
    os.mkdir(folder)
    with open(folder + "/kept", "w") as f:
        f.write("old")
    s = half_a_copy(g, folder + "/kept")
    if how == "client goes":
        s.close()
    elif how == "guest killed":
        g.kill()
    else:
        g.stop()
    wait_for(lambda: os.listdir(folder) == ["kept"], 10, "temporary file removed")
    assert open(folder + "/kept").read() == "old"
    s.close()


def command(guest, *argv):
    body = json.dumps({"command": argv[0], "args": argv[1:]}).encode()
    s = socket.create_connection((REMOTE, guest.port), TIMEOUT)
    s.sendall(b"POST /tinyscale/v1/host-exec/command HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return s, s.makefile("rb")


def skip_head(f):
    assert f.readline().startswith(b"HTTP/1.1 101 ")
    while f.readline().strip():
        pass


def test_sigterm_lets_a_plain_command_finish(lab):
    g = lab.start_guest(mtls=False)
    s, f = command(g, "sh", "-c", "echo started; cat; echo finished")
    skip_head(f)
    assert f.readline() == b"started\n"
    g.expect_death = True
    g.signal(15)
    wait_for(lambda: "drain" in g.text(), 5, "the guest drains")
    s.sendall(b"input\n")
    s.shutdown(socket.SHUT_WR)
    assert f.read() == b"input\nfinished\n"
    assert g.wait(TIMEOUT) == 0
    s.close()


@pytest.mark.parametrize("form", ["plain", "tunnel"])
def test_no_command_outlives_the_guest(lab, form):
    g = lab.start_guest("--grace", "0s", mtls=False)
    script = "echo $$; exec sleep 1000"
    if form == "plain":
        s, f = command(g, "sh", "-c", script)
        skip_head(f)
        pid = int(f.readline())
    else:
        c = Carrier(g)
        pid = int(c.wait(DATA, c.open(kind="exec", command="sh", args=["-c", script])))
    assert lab.remote("kill", "-0", pid, check=False).returncode == 0
    assert g.stop() == 0
    wait_for(lambda: "State:\tZ" in status(lab, pid) or not status(lab, pid), 5, "the command ends")


def status(lab, pid):
    return lab.remote("cat", f"/proc/{pid}/status", check=False).stdout


def test_clients_that_leave_while_a_command_starts(lab, plain_guest):
    """At whatever moment: the guest stays, and so does no process."""
    for i in range(40):
        s, f = command(plain_guest, "sleep", "999")
        f.close()
        if i % 4:
            select.select([s], [], [], 0.001 * (i % 4))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    wait_for(lambda: b"tstunnel_exec_children 0\n" in request(plain_guest, "GET", "/metrics")[1], 10, "no command runs")


def test_allowed_cns(lab):
    g = lab.start_guest("--allowed-cns", "client,spiffe://tinyscale.net/ns/dev/sa/alice")
    for who, expected in (("client", 200), ("client-spiffe", 200), ("client2", 403)):
        tls = tls_context(lab, who)
        for method, path in (("GET", "/health"), ("GET", "/metrics")):
            got, body = request(g, method, path, tls=tls)
            assert got == expected, (who, path)
        if expected == 403:
            assert b"--allowed-cns" in body and b"other-client" in body
            for method, path in (("GET", "/tinyscale/v1/tunnel"), ("GET", "/_ping"),
                                 ("POST", "/tinyscale/v1/host-exec/directories"), ("GET", "/no/such")):
                assert request(g, method, path, tls=tls)[0] == 403
    for who, expected in (("client", False), ("client2", True)):
        with contextlib.closing(tls_context(lab, who).wrap_socket(
                socket.create_connection((REMOTE, g.port), TIMEOUT), server_hostname=HOST)) as s:
            s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(0, 0, 0)[:9])
            assert ("preface-refused" in wait_text(g, s)) == expected


def wait_text(guest, s):
    """The log once the guest has answered the preface in one way or another."""
    with contextlib.suppress(ConnectionError):
        s.recv(1)
    return guest.text()


def test_a_web_page_gets_nothing_over_tls_either(lab):
    """A browser shows its user's certificate for any page that asks."""
    tls = tls_context(lab, "client")
    assert request(lab.guest, "GET", "/health", tls=tls)[0] == 200
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert request(lab.guest, "GET", "/_ping", headers=headers, tls=tls)[0] == 403
    assert request(lab.guest, "GET", "/health", headers={"Sec-Fetch-Site": "none"}, tls=tls)[0] == 200
