"""What goes wrong in life, provoked for real: one line that says what, where and what to do, and a
status that is not zero. host-exec shows it at once; so does `tsctl start`, where a wrong certificate
or a wrong address is found before anybody types docker."""
import os
import socket
import subprocess
import threading

import pytest
from lab import BIN, HOST, LAPTOP, REMOTE, can_connect, run, wait_for

pytestmark = pytest.mark.tunnel


@pytest.fixture(scope="module")
def guests(session_lab):
    """One guest for each certificate, started when first asked for."""
    started = {}

    def guest(cert, *flags):
        key = (cert, flags)
        if key not in started or not started[key].alive():
            p = session_lab.pki
            port = session_lab.free_port()
            g = session_lab.program("guest", [BIN + "/guest", "--listen", f"{REMOTE}:{port}",
                                              "--server-cert", p.crt(cert), "--server-key", p.key(cert),
                                              "--ca-certs", p.crt("ca"), *flags], remote=True)
            g.address, g.port, g.keep = f"{HOST}:{port}", port, True
            started[key] = g.wait_listening(REMOTE, port)
        return started[key]
    yield guest
    for g in started.values():
        if g.alive():
            g.stop()


def _client(lab, address, flags, timeout=30):
    """host-exec's one line of error."""
    argv = [BIN + "/tsctl", "host-exec", "--server-addr", address, *flags, "--", "true"]
    r = run(*argv, env=lab.env, check=False, timeout=timeout)
    lines = r.stderr.splitlines()
    assert r.returncode == 255, r.stderr
    assert r.stdout == ""
    assert len(lines) == 1, r.stderr
    return lines[0]


def _both(lab, address, exec_flags, words, timeout=30):
    """The line has every one of the words (a tuple: one of its members)."""
    line = _client(lab, address, exec_flags, timeout)
    for w in words:
        assert any(x in line for x in ([w] if isinstance(w, str) else w)), f"{w!r} not in: {line}"
    return line


def test_unknown_authority(lab, guests):  # Q1
    g = guests("server-other-ca")
    _both(lab, g.address, lab.mtls_client_flags("--"),
          ["certificate signed by unknown authority", g.address, "--ca"])


def test_unknown_authority_against_the_systems_store(lab):
    _both(lab, lab.guest.address, ["--cert", lab.pki.crt("client"), "--key", lab.pki.key("client")],
          ["certificate signed by unknown authority", "--ca"])


def test_connection_refused(lab):  # Q2
    _both(lab, f"{HOST}:1", lab.mtls_client_flags("--"), ["connection refused", f"{HOST}:1", "guest"])


def test_wrong_name(lab):  # Q5
    address = f"other.example:{lab.guest.port}"
    _both(lab, address, lab.mtls_client_flags("--"),
          [f"certificate is valid for {HOST}", "not other.example"])


def test_wildcard_name_is_right(lab):
    lab.host_exec("--", "true", flags=["--server-addr", f"abc.{HOST}:{lab.guest.port}"] + lab.mtls_client_flags("--"))


def test_insecure_skips_verification(lab, guests):
    g = guests("server-other-ca")
    assert lab.host_exec("--insecure", "--", "echo", "through", guest=g).stdout == "through\n"


def test_server_expired(lab, guests):
    _both(lab, guests("server-expired").address, lab.mtls_client_flags("--"), ["certificate has expired", HOST])


def test_server_not_yet_valid(lab, guests):
    _both(lab, guests("server-future").address, lab.mtls_client_flags("--"), ["not yet valid", HOST])


def test_no_client_certificate(lab):
    _both(lab, lab.guest.address, ["--ca", lab.pki.crt("ca")], [("certificate required", "client certificate"), "--cert"])


def test_client_certificate_of_another_authority(lab):
    flags = lab.mtls_client_flags("--", "client-other-ca")
    _both(lab, lab.guest.address, flags, ["certificate", HOST])


def test_client_certificate_expired(lab):
    _both(lab, lab.guest.address, lab.mtls_client_flags("--", "client-expired"), ["certificate", ("expired", "refused", "denied")])


def test_client_not_among_allowed(lab, guests):
    g = guests("server2", "--allowed-cns", "client,someone")
    lab.host_exec("--", "true", guest=g)
    _both(lab, g.address, lab.mtls_client_flags("--", "client2"), [("not allowed", "denied", "refused")])


def test_allowed_by_spiffe_id(lab, guests):
    g = guests("server2", "--allowed-cns", "spiffe://tinyscale.net/ns/dev/sa/alice")
    lab.host_exec("--", "true", guest=g, flags=lab.mtls_client_flags("--", "client-spiffe"))
    _both(lab, g.address, lab.mtls_client_flags("--"), [("not allowed", "denied", "refused")])


def test_key_does_not_match(lab):
    p = lab.pki
    flags = ["--cert", p.crt("client"), "--key", p.key("client2"), "--ca", p.crt("ca")]
    _both(lab, lab.guest.address, flags, ["match", "client"])


def test_certificate_file_missing(lab):
    p = lab.pki
    _both(lab, lab.guest.address, ["--cert", "/no/such.crt", "--key", p.key("client")], ["/no/such.crt", "no such file"])
    _both(lab, lab.guest.address, ["--ca", "/no/such-ca.crt"], ["/no/such-ca.crt", "no such file"])


def test_certificate_file_is_no_certificate(lab):
    p = lab.pki
    _both(lab, lab.guest.address, ["--cert", p.key("client"), "--key", p.key("client")], [p.key("client")])


def test_key_file_unreadable(lab):
    """Root reads everything, so this runs as nobody."""
    os.chmod(lab.dir, 0o755)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BIN + "/tsctl", "host-exec",
            "--server-addr", lab.guest.address, "--cert", lab.pki.crt("client"), "--key", lab.pki.key("client"),
            "--", "true"]
    env = {k: v for k, v in lab.env.items() if k != "XDG_RUNTIME_DIR"}
    r = run(*argv, env=env, check=False)
    assert r.returncode == 255, r.stderr
    assert lab.pki.key("client") in r.stderr and "permission denied" in r.stderr.lower()
    assert len(r.stderr.splitlines()) == 1


def test_port_speaks_no_tls(lab):
    g = lab.start_guest(mtls=False)
    _both(lab, f"{HOST}:{g.port}", lab.mtls_client_flags("--"), ["TLS", f"{HOST}:{g.port}"])


def test_port_speaks_tls_and_we_do_not(lab):
    _both(lab, lab.guest.address, [], ["TLS", lab.guest.address])


def test_dns_server_does_not_answer(lab):
    _both(lab, "unknown.example:443", lab.mtls_client_flags("--"), ["unknown.example"], timeout=60)


def test_dns_says_no_such_host(lab):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 53))
    s.settimeout(0.2)
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            try:
                q, peer = s.recvfrom(512)
            except socket.timeout:
                continue
            s.sendto(q[:2] + b"\x81\x83" + q[4:6] + b"\0\0\0\0\0\0" + q[12:], peer)  # NXDOMAIN
    t = threading.Thread(target=serve)
    t.start()
    try:
        _both(lab, "unknown.example:443", lab.mtls_client_flags("--"), ["no such host", "unknown.example"])
    finally:
        stop.set()
        t.join()
        s.close()


def test_connect_timeout(lab):
    """An address of the link that nobody has: no answer, not even a refusal."""
    lab.remote("iptables", "-I", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP")
    _both(lab, f"{REMOTE}:7", lab.mtls_client_flags("--") + ["--connect-timeout", "1s"],
          [("timeout", "timed out"), f"{REMOTE}:7", ("dial", "connect")])


def test_handshake_timeout(lab):
    """Somebody accepts, and says nothing."""
    s = socket.socket()
    s.bind((LAPTOP, 0))
    s.listen()
    try:
        _both(lab, f"{LAPTOP}:{s.getsockname()[1]}", lab.mtls_client_flags("--") + ["--handshake-timeout", "1s"],
              [("timeout", "timed out"), LAPTOP])
    finally:
        s.close()


def test_far_side_is_some_other_web_server(lab):
    argv = lab.remote_argv("busybox", "httpd", "-f", "-p", f"{REMOTE}:9999", "-h", "/usr/share")
    httpd = subprocess.Popen(argv)
    try:
        wait_for(lambda: can_connect(REMOTE, 9999), 10)
        _both(lab, f"{REMOTE}:9999", [], [f"{REMOTE}:9999", ("404", "guest", "upgrade", "Upgrade")])
    finally:
        pid = int(open(f"/proc/{httpd.pid}/task/{httpd.pid}/children").read().split()[0])
        os.kill(pid, 9)
        httpd.wait()


# tsctl start itself.

def _start(lab, *flags, timeout=30):
    argv = [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{lab.free_port()}", *flags]
    r = run(*argv, env=lab.env, check=False, timeout=timeout)
    assert r.returncode != 0
    return r.stderr


def test_start_certificate_without_key(lab):
    err = _start(lab, "--ts-server", "x:1", "--ts-cert", lab.pki.crt("client"))
    assert "--ts-cert" in err and "--ts-key" in err


def test_start_missing_file(lab):
    err = _start(lab, "--ts-server", "x:1", "--ts-cert", "/no/such.crt", "--ts-key", lab.pki.key("client"))
    assert "/no/such.crt" in err and "no such file" in err


def test_start_key_mismatch(lab):
    p = lab.pki
    err = _start(lab, "--ts-server", "x:1", "--ts-cert", p.crt("client"), "--ts-key", p.key("client2"))
    assert "match" in err


def test_start_without_server(lab):
    assert "--ts-server" in _start(lab)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", "unix://", "203.0.113.9:2375"])
def test_start_bad_listen_address(lab, listen):
    r = run(BIN + "/tsctl", "start", "--listen", listen, "--ts-server", lab.guest.address,
            *lab.mtls_client_flags(), env=lab.env, check=False)
    assert r.returncode != 0 and listen.split("://")[0].split(":")[0] in r.stderr


def test_start_finds_the_guest_away(lab):
    err = _start(lab, "--ts-server", f"{HOST}:1", *lab.mtls_client_flags())
    assert "connection refused" in err and f"{HOST}:1" in err and len(err.splitlines()) == 1


def test_start_finds_an_unknown_authority(lab, guests):
    err = _start(lab, "--ts-server", guests("server-other-ca").address, *lab.mtls_client_flags())
    assert "certificate signed by unknown authority" in err and "--ts-ca" in err and len(err.splitlines()) == 1


def test_start_finds_a_wrong_name(lab):
    err = _start(lab, "--ts-server", f"other.example:{lab.guest.port}", *lab.mtls_client_flags())
    assert f"certificate is valid for {HOST}" in err and "not other.example" in err


def test_docker_sees_the_reason(lab, docker1):
    """The tunnel cannot be made: the CLI prints our sentence, as an error of the engine."""
    t = lab.start_tsctl(f"{HOST}:1", "--retry")
    r = docker1("ps", check=False, env={"DOCKER_HOST": t.url})
    assert r.returncode != 0 and "connection refused" in r.stderr and f"{HOST}:1" in r.stderr


# The guest.

@pytest.mark.parametrize("flags,words", [
    (["--server-cert", "/no/such.crt", "--server-key", "KEY", "--ca-certs", "CA"], ["/no/such.crt"]),
    (["--server-cert", "CRT", "--server-key", "OTHERKEY", "--ca-certs", "CA"], ["match"]),
    (["--server-cert", "CRT", "--ca-certs", "CA"], ["--server-key"]),
    (["--port", "99999"], ["99999"]),
    (["--no-such-flag"], ["--no-such-flag", "help"]),
    (["--listen", "203.0.113.9:8080", "--insecure"], ["203.0.113.9:8080"]),
])
def test_guest_refuses_to_start(lab, flags, words):
    p = lab.pki
    names = {"KEY": p.key("server"), "CRT": p.crt("server"), "OTHERKEY": p.key("client"), "CA": p.crt("ca")}
    r = lab.remote(BIN + "/guest", *[names.get(f, f) for f in flags], check=False)
    assert r.returncode != 0
    for w in words:
        assert w in r.stderr
