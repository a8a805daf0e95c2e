"""The remote side goes away in the middle: an error at once, and work again without a restart."""
import contextlib
import json
import http.client
import socket
import subprocess
import threading
import time

import pytest
from lab import HOST, Docker, can_connect, wait_for

pytestmark = pytest.mark.tunnel


def _reply(port, method, path, timeout=15):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    c.request(method, path, headers={"Content-Length": "0"} if method == "POST" else {})
    r = c.getresponse()
    return r.status, r.read()


def test_guest_killed_in_the_middle(lab):
    g = lab.start_guest()
    t = lab.start_tsctl(g)
    docker = Docker(lab, host=t.url)
    name = lab.name()
    docker("run", "-d", "-i", "--name", name, "bb", "sh", "-c", "trap 'echo term' TERM; echo up; while :; do sleep 0.1; done")
    streams = [docker.popen("events"), docker.popen("logs", "-f", name),
               docker.popen("attach", "--sig-proxy=false", name, stdin=subprocess.PIPE)]
    assert streams[1].stdout.readline() == b"up\n"
    owed = []
    stopper = threading.Thread(target=lambda: owed.append(_reply(t.port, "POST", f"/containers/{name}/stop?t=60")))
    stopper.start()
    assert streams[1].stdout.readline() == b"term\n", "the stop waits at the engine"

    g.kill()
    start = time.monotonic()
    for p in streams:
        p.communicate(timeout=5)
    stopper.join(5)
    assert time.monotonic() - start < 5
    status, body = owed[0]
    assert status == 502 and json.loads(body)["message"]

    status, body = _reply(t.port, "GET", "/v1.41/containers/json")
    assert status == 502
    assert "connection refused" in json.loads(body)["message"]
    r = docker("ps", check=False)
    assert r.returncode != 0 and "connection refused" in r.stderr

    again = lab.start_guest(port=g.port)
    assert again.alive() and t.alive()
    wait_for(lambda: docker("ps", "-q", check=False).returncode == 0, 10, "works again without restarting tsctl")
    assert docker.inspect(name, "{{.State.Running}}") == "true"


def test_guest_restarted_under_load(lab):
    """Commands may fail while it is away; none hangs, and soon all succeed again."""
    g = lab.start_guest()
    t = lab.start_tsctl(g)
    docker = Docker(lab, host=t.url)
    for _ in range(3):
        procs = [docker.popen("version") for _ in range(10)]
        g.kill()
        for p in procs:
            p.communicate(timeout=10)
        g = lab.start_guest(port=g.port)
        wait_for(lambda: docker("version", check=False).returncode == 0, 10, "works again")
    assert t.alive()


def test_engine_away_is_not_guest_away(lab):
    """The guest lives, its engine does not: 502 says so."""
    g = lab.start_guest("--docker", "unix:///run/no-engine-here.sock")
    t = lab.start_tsctl(g)
    status, body = _reply(t.port, "GET", "/_ping")
    assert status == 502 and json.loads(body)["message"]


def test_tsctl_killed_leaves_nothing_at_the_guest(lab):
    g = lab.start_guest()
    t = lab.start_tsctl(g)
    docker = Docker(lab, host=t.url)
    p = docker.popen("events")
    wait_for(lambda: docker("version", check=False).returncode == 0, 10)
    t.kill()
    p.communicate(timeout=5)

    def connections():
        return lab.remote("ss", "-Htn", "state", "established", "sport", "=", f":{g.port}").stdout.strip()
    wait_for(lambda: not connections(), 10, "the carrier is closed at the guest")
    assert not can_connect("127.0.0.1", t.port)
    assert Docker(lab, host=lab.start_tsctl(g, port=t.port).url).out("version", "-f", "ok") == "ok"


def test_carrier_cut_by_the_network(lab):
    """A reset on the way (not a clean close) is redialled."""
    g = lab.start_guest()
    t = lab.start_tsctl(g)
    docker = Docker(lab, host=t.url)
    assert docker.out("version", "-f", "ok") == "ok"
    lab.remote("ss", "-K", "sport", "=", f":{g.port}", check=False)
    wait_for(lambda: docker("version", check=False).returncode == 0, 10, "works again")


def test_half_open_client_is_cut(lab):
    """Somebody connects and never says a word: the guest does not keep it for ever."""
    s = socket.create_connection((HOST, lab.guest.port))
    s.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        assert s.recv(100) == b""
    s.close()
