"""Starting, stopping, status, reload: both programs as daemons."""
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
from lab import BIN, HOST, REMOTE, Docker, can_connect, open_files, run, wait_for
from wire import NOWHERE

pytestmark = pytest.mark.tunnel


@pytest.fixture
def runtime(lab):
    """A runtime folder for this test alone."""
    d = lab.path("run-" + lab.name())
    os.mkdir(d, 0o700)
    return d


def _tsctl(lab, runtime, *args, **kw):
    return run(BIN + "/tsctl", *args, env=dict(lab.env, XDG_RUNTIME_DIR=runtime), **kw)


def _start_flags(lab, port):
    return ["--listen", f"127.0.0.1:{port}", "--ts-server", lab.guest.address, *lab.mtls_client_flags()]


def test_detach_status_stop(lab, runtime):
    port = lab.free_port()
    log = open(lab.path("log/detached"), "wb")
    # Not captured through a pipe: the daemon must not hold its parent's terminal or pipes anyway.
    assert subprocess.run([BIN + "/tsctl", "start", "--detach", *_start_flags(lab, port)], stdin=subprocess.DEVNULL,
                          stdout=log, stderr=log, env=dict(lab.env, XDG_RUNTIME_DIR=runtime), timeout=20).returncode == 0
    assert can_connect("127.0.0.1", port), "listening when start returns"
    assert Docker(lab, host=f"tcp://127.0.0.1:{port}").out("version", "-f", "ok") == "ok"

    r = _tsctl(lab, runtime, "status")
    assert f"127.0.0.1:{port}" in r.stdout and lab.guest.address in r.stdout
    status = json.loads(_tsctl(lab, runtime, "status", "--json").stdout)
    text = json.dumps(status)
    assert str(port) in text and lab.guest.address in text

    for top, dirs, files in os.walk(runtime):
        for f in dirs + files:
            assert os.stat(os.path.join(top, f)).st_mode & 0o077 == 0, f

    _tsctl(lab, runtime, "stop")
    wait_for(lambda: not can_connect("127.0.0.1", port), 10, "stopped")
    assert _tsctl(lab, runtime, "stop", check=False).returncode != 0
    r = _tsctl(lab, runtime, "status", check=False)
    assert f"127.0.0.1:{port}" not in r.stdout


def test_detach_does_not_hold_pipes(lab, runtime):
    """$(tsctl start --detach …) returns."""
    port = lab.free_port()
    _tsctl(lab, runtime, "start", "--detach", *_start_flags(lab, port), timeout=15)
    _tsctl(lab, runtime, "stop")


def test_detach_reports_failure(lab, runtime):
    r = _tsctl(lab, runtime, "start", "--detach", *_start_flags(lab, lab.tsctl.port), check=False)
    assert r.returncode != 0 and str(lab.tsctl.port) in r.stderr


def test_one_instance_per_address(lab, runtime):
    port = lab.free_port()
    _tsctl(lab, runtime, "start", "--detach", *_start_flags(lab, port))
    try:
        r = _tsctl(lab, runtime, "start", *_start_flags(lab, port), check=False, timeout=15)
        assert r.returncode != 0 and f"127.0.0.1:{port}" in r.stderr
        other = lab.free_port()
        _tsctl(lab, runtime, "start", "--detach", *_start_flags(lab, other))
        out = _tsctl(lab, runtime, "status").stdout
        assert f"127.0.0.1:{port}" in out and f"127.0.0.1:{other}" in out
        _tsctl(lab, runtime, "stop", "--listen", f"127.0.0.1:{other}")
        wait_for(lambda: not can_connect("127.0.0.1", other), 10)
        assert can_connect("127.0.0.1", port)
    finally:
        _tsctl(lab, runtime, "stop", "--listen", f"127.0.0.1:{port}")
    wait_for(lambda: not can_connect("127.0.0.1", port), 10)


def test_start_after_a_crash(lab, runtime):
    """Files that a killed instance left behind stop nobody."""
    env = {"XDG_RUNTIME_DIR": runtime}
    t = lab.start_tsctl(lab.guest, env=env)
    t.kill()
    t = lab.start_tsctl(lab.guest, port=t.port, env=env)
    assert str(t.port) in _tsctl(lab, runtime, "status").stdout
    assert t.stop() == 0


def test_sigterm_ends_tsctl_cleanly(lab):
    t = lab.start_tsctl(lab.guest)
    assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"
    assert t.stop() == 0


def test_tsctl_sigterm_lets_a_request_finish(lab):
    t = lab.start_tsctl(lab.guest)
    docker = Docker(lab, host=t.url)
    p = docker.popen("run", "--rm", "bb", "sh", "-c", "echo started; sleep 2; echo finished")
    assert p.stdout.readline() == b"started\n"
    t.expect_death = True
    t.signal(signal.SIGTERM)
    assert b"finished" in p.communicate(timeout=20)[0]
    assert t.wait(20) == 0


def test_guest_sigterm_drains(lab):
    g = lab.start_guest()
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", "echo started; sleep 2; echo finished", guest=g),
                         env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"started\n"
    g.expect_death = True
    g.signal(signal.SIGTERM)
    wait_for(lambda: not can_connect(REMOTE, g.port), 2, "no new connections")
    out, err = p.communicate(timeout=20)
    assert (p.returncode, out) == (0, b"finished\n"), err
    assert g.wait(20) == 0


def _presented(lab, port):
    r = run("openssl", "s_client", "-connect", f"{REMOTE}:{port}", "-showcerts", "-cert", lab.pki.crt("client"),
            "-key", lab.pki.key("client"), input="", check=False)
    out = r.stdout
    return out[out.index("-----BEGIN CERTIFICATE-----"):out.index("-----END CERTIFICATE-----")]


def test_guest_sighup_reloads_certificate_and_ca(lab):
    crt, key, ca = lab.path("r.crt"), lab.path("r.key"), lab.path("r-ca.crt")

    def install(cert, authority):
        shutil.copy(lab.pki.crt(cert), crt)
        shutil.copy(lab.pki.key(cert), key)
        shutil.copy(lab.pki.crt(authority), ca)
    install("server", "ca")
    port = lab.free_port()
    g = lab.program("guest", [BIN + "/guest", "--listen", f"{REMOTE}:{port}", "--server-cert", crt, "--server-key", key,
                              "--ca-certs", ca], remote=True).wait_listening(REMOTE, port)
    g.address, g.port = f"{HOST}:{port}", port
    p = subprocess.Popen(lab.host_exec_argv("--", "sh", "-c", "echo started; cat", guest=g), env=lab.env,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"started\n"
    before = _presented(lab, port)

    install("server2", "other-ca")
    g.signal(signal.SIGHUP)
    wait_for(lambda: _presented(lab, port) != before, 5, "the new certificate is shown")
    other = ["--cert", lab.pki.crt("client-other-ca"), "--key", lab.pki.key("client-other-ca"), "--ca", lab.pki.crt("ca")]
    assert lab.host_exec("--", "echo", "new", guest=g, flags=other).stdout == "new\n"
    assert lab.host_exec("--", "true", guest=g, check=False).returncode == 255, "the old authority is trusted no more"

    with open(crt, "w") as f:
        f.write("this is no certificate\n")
    g.signal(signal.SIGHUP)
    wait_for(lambda: crt in g.text(), 5, "the log names the bad file")
    assert lab.host_exec("--", "echo", "still", guest=g, flags=other).stdout == "still\n"

    out, _ = p.communicate(b"old stream lives\n", timeout=10)
    assert out == b"old stream lives\n"
    assert g.stop() == 0


def _remote_listens(lab, port):
    return [l.split()[3] for l in lab.remote("ss", "-Hltn", "sport", "=", f":{port}").stdout.splitlines()]


@pytest.mark.parametrize("flags,port", [([], 8080), (["--port", "9090"], 9090), (["-p", "9091"], 9091)])
def test_guest_without_certificates_is_loopback_only(lab, flags, port):
    g = lab.program("guest", [BIN + "/guest", *flags], remote=True)
    mine = wait_for(lambda: [a for a in _remote_listens(lab, port) if REMOTE not in a], 10, "listening")
    assert all(a.startswith(("127.", "[::1]")) for a in mine)
    assert g.stop() == 0


def test_guest_without_certificates_on_the_network_needs_insecure(lab):
    port = lab.free_port()
    r = lab.remote(BIN + "/guest", "--listen", f"{REMOTE}:{port}", check=False, timeout=10)
    assert r.returncode != 0 and "--insecure" in r.stderr
    lab.start_guest(mtls=False)


def test_guest_with_certificates_listens_everywhere(lab):
    port = lab.free_port()
    g = lab.program("guest", [BIN + "/guest", "--enable-mtls", "--port", port, *lab.mtls_guest_flags()], remote=True)
    g.wait_listening(REMOTE, port)
    assert g.stop() == 0


def test_allow_tcp_is_accepted(lab):
    g = lab.start_guest("--allow-tcp", "127.0.0.1:1-65535", "--allow-tcp", "localhost:80")
    lab.host_exec("--", "true", guest=g)


@pytest.mark.parametrize("argv", [["tsctl", "--help"], ["tsctl", "start", "--help"], ["tsctl", "host-exec", "--help"],
                                  ["tsctl", "certs", "--help"], ["tsctl", "status", "--help"], ["tsctl", "stop", "--help"],
                                  ["guest", "--help"], ["guest", "-h"]])
def test_help(lab, argv):
    r = run(BIN + "/" + argv[0], *argv[1:], env=lab.env)
    assert "--" in r.stdout and r.stderr == ""


@pytest.mark.parametrize("argv", [["tsctl"], ["tsctl", "no-such-command"], ["tsctl", "start", "--nonsense"],
                                  ["guest", "--nonsense"]])
def test_usage_errors(lab, argv):
    r = run(BIN + "/" + argv[0], *argv[1:], env=lab.env, check=False)
    assert r.returncode == 2 and r.stderr


def test_idle_programs_do_nothing(lab):
    """No busy loop: an idle tunnel uses no processor to speak of."""
    t = lab.start_tsctl(lab.guest)
    assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"

    def ticks():
        f = open(f"/proc/{t.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(f[11]) + int(f[12])
    before = ticks()
    time.sleep(2)  # the span that is measured
    assert ticks() - before <= 4


def test_descriptors_are_given_back(lab):
    t = lab.start_tsctl(lab.guest)
    docker = Docker(lab, host=t.url)

    def fds():
        return len(open_files(t.pid))
    name = docker.sleeper()
    before = fds()
    for p in [docker.popen("exec", name, "true") for _ in range(20)]:
        p.communicate(timeout=60)
    wait_for(lambda: fds() <= before + 1, 10, "descriptors of tsctl")


# -- tsctl stop, status ----------------------------------------------------------------------------


@pytest.mark.parametrize("sub", ["stop", "status"])
def test_arguments_that_mean_nothing_are_refused(lab, sub):
    """"tsctl stop 127.0.0.1:2375" must not stop another one because it is the only one."""
    r = run(BIN + "/tsctl", sub, "127.0.0.1:1", check=False, env=lab.env)
    assert r.returncode == 2 and "unexpected argument: 127.0.0.1:1" in r.stderr
    assert lab.tsctl.alive()


def test_stop_does_not_wait_for_the_reaper(lab):
    """Ended is who holds the lock no more, even if nobody has fetched the exit status."""
    t = lab.start_tsctl(lab.guest)
    t.expect_death = True
    start = time.monotonic()
    r = run(BIN + "/tsctl", "stop", "--listen", f"127.0.0.1:{t.port}", check=False, env=lab.env)
    assert r.returncode == 0 and time.monotonic() - start < 10, r.stderr
    assert t.wait() == 0


def test_looking_does_not_keep_from_starting(lab):
    """status asks about the lock without taking it."""
    stop = threading.Event()

    def look():
        while not stop.is_set():
            run(BIN + "/tsctl", "status", check=False, env=lab.env)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        port = lab.free_port()
        for _ in range(5):
            assert lab.start_tsctl(lab.guest, port=port).stop() == 0
    finally:
        stop.set()
        thread.join()


def test_sigterm_before_it_serves(lab):
    """While the guest is still being reached, there is nothing to wait for."""
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{lab.free_port()}", "--ts-server", NOWHERE])
    wait_for(lambda: "tsctl" in open(f"/proc/{t.pid}/comm").read() and t.popen.poll() is None
             and any("eventpoll" in f for f in open_files(t.pid)), 5)
    assert t.stop(5) == 0
    assert "listening" not in t.text()
