"""The quick start, step by step as a user types it."""
import os
import stat

import pytest
from lab import BIN, HOST, REMOTE, Docker, run, wait_for

pytestmark = pytest.mark.tunnel

# Literally the seed's ten lines.
CERTIFICATES = r"""
# 生成 CA
openssl req -x509 -newkey rsa:4096 -days 365 -nodes \
  -keyout ca.key -out ca.crt \
  -subj "/CN=TinyscaleCA"

# 生成服务器证书
openssl req -newkey rsa:4096 -nodes \
  -keyout server.key -out server.csr \
  -subj "/CN=containers.tinyscale.net"

openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key \
  -CAcreateserial -out server.crt -days 365 \
  -extfile <(echo "subjectAltName=DNS:containers.tinyscale.net,DNS:*.containers.tinyscale.net")

# 生成客户端证书
openssl req -newkey rsa:4096 -nodes \
  -keyout client.key -out client.csr \
  -subj "/CN=client"

openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key \
  -CAcreateserial -out client.crt -days 365
"""


def _tunnel(lab, d, server="server", client="client", ca="ca"):
    port = lab.free_port()
    g = lab.program("guest", [BIN + "/guest", "--port", port, "--server-cert", f"{d}/{server}.crt", "--server-key",
                              f"{d}/{server}.key", "--ca-certs", f"{d}/{ca}.crt"], remote=True).wait_listening(REMOTE, port)
    local = lab.free_port()
    t = lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f"127.0.0.1:{local}", "--ts-server", f"{HOST}:{port}",
                              "--ts-cert", f"{d}/{client}.crt", "--ts-key", f"{d}/{client}.key", "--ts-ca",
                              f"{d}/{ca}.crt", "--remote-docker", "unix:///var/run/docker.sock"])
    t.wait_listening("127.0.0.1", local)
    g.address = f"{HOST}:{port}"
    return g, Docker(lab, host=f"tcp://127.0.0.1:{local}")


def test_openssl_lines_and_method_a(lab, tmp_path):
    run("bash", "-e", "-c", CERTIFICATES, cwd=tmp_path, env=lab.env, timeout=180)
    g, docker = _tunnel(lab, tmp_path)
    assert "Server" in docker("info").stdout
    assert docker.out("run", "--rm", "bb", "echo", "hello") == "hello"
    flags = ["--cert", f"{tmp_path}/client.crt", "--key", f"{tmp_path}/client.key", "--ca", f"{tmp_path}/ca.crt"]
    assert lab.host_exec("--", "echo", "here", guest=g, flags=flags).stdout == "here\n"


def test_tsctl_certs(lab, tmp_path):
    make = [BIN + "/tsctl", "certs", "--dir", tmp_path, "--server-name", HOST]
    run(*make, env=lab.env)
    for f in ("ca", "server", "client"):
        assert stat.S_IMODE(os.stat(tmp_path / f"{f}.key").st_mode) == 0o600
        text = run("openssl", "x509", "-in", tmp_path / f"{f}.crt", "-noout", "-text").stdout
        assert ("CA:TRUE" in text) == (f == "ca")
    for purpose, name in (("sslserver", "server"), ("sslclient", "client")):
        run("openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "ca.crt", "-purpose", purpose,
            *(["-verify_hostname", HOST] if name == "server" else []), tmp_path / f"{name}.crt")
    _, docker = _tunnel(lab, tmp_path)
    assert docker.out("run", "--rm", "bb", "echo", "hello") == "hello"

    before = (tmp_path / "server.key").read_bytes()
    r = run(*make, env=lab.env, check=False)
    assert r.returncode != 0 and "server" in r.stderr
    assert (tmp_path / "server.key").read_bytes() == before


def test_method_b_and_scenario_1(lab, tmp_path):
    """tsctl start --listen :2375 --ts-server dev-host:8080 --ts-insecure, with a guest without
    certificates; then docker build and run as if the engine were here."""
    g = lab.start_guest(mtls=False)
    local = lab.free_port()
    lab.program("tsctl", [BIN + "/tsctl", "start", "--listen", f":{local}", "--ts-server", f"remote-host:{g.port}",
                          "--ts-insecure", "--remote-docker", "unix:///var/run/docker.sock"]).wait_listening("127.0.0.1", local)
    docker = Docker(lab, host=f"tcp://localhost:{local}", env={"DOCKER_BUILDKIT": "0"})
    (tmp_path / "Dockerfile").write_text("FROM bb\nCMD echo my app\n")
    docker("build", "-t", "myapp", tmp_path)
    assert docker.out("run", "--rm", "myapp") == "my app"
    docker("rmi", "-f", "myapp")


def test_insecure_against_a_tls_guest(lab):
    """--ts-insecure alone: the guest answers with TLS, which is then used unverified (this guest
    wants a certificate, so one is shown)."""
    p = lab.pki
    t = lab.start_tsctl(lab.guest, "--ts-cert", p.crt("client"), "--ts-key", p.key("client"), "--ts-insecure", mtls=False)
    assert Docker(lab, host=t.url).out("version", "-f", "ok") == "ok"
    wait_for(lambda: "insecure" in t.text(), 5, "a warning")


def test_scenario_2_two_environments(lab):
    """Two proxies side by side, one for each environment."""
    a, b = lab.start_tsctl(lab.guest), lab.start_tsctl(lab.start_guest(mtls=False), mtls=False)
    for t in (a, b):
        assert Docker(lab, host=t.url).out("ps", "-q") == ""
