"""Other clients than the CLI: Debian's python3-docker and docker-compose 1.29."""
import io
import os
import tarfile

import pytest
from lab import run, wait_for

docker_sdk = pytest.importorskip("docker")


@pytest.fixture
def client(lab):
    c = docker_sdk.DockerClient(base_url=lab.docker_host, version="auto", timeout=30)
    yield c
    c.close()


def test_sdk_run_and_errors(client):
    assert client.ping()
    assert client.containers.run("bb", "echo hello", remove=True) == b"hello\n"
    with pytest.raises(docker_sdk.errors.ContainerError) as e:
        client.containers.run("bb", "sh -c 'exit 4'", remove=True)
    assert e.value.exit_status == 4
    with pytest.raises(docker_sdk.errors.NotFound):
        client.containers.get("no-such-container")


def test_sdk_exec_demux_and_logs_stream(client):
    c = client.containers.run("bb", ["sh", "-c", "echo one; echo two; sleep 10000"], detach=True)
    code, (out, err) = c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
    assert (code, out, err) == (3, b"out\n", b"err\n")
    lines = c.logs(stream=True, follow=True)
    assert b"".join(next(lines) for _ in range(1)).startswith(b"one")
    c.remove(force=True)


def test_sdk_exec_socket_half_close(client):
    c = client.containers.run("bb", ["sleep", "10000"], detach=True)
    e = client.api.exec_create(c.id, ["sh", "-c", "cat; echo after"], stdin=True)
    sock = client.api.exec_start(e["Id"], socket=True)
    raw = sock._sock
    raw.settimeout(15)
    raw.sendall(b"typed\n")
    raw.shutdown(1)
    got = b""
    while chunk := raw.recv(4096):
        got += chunk
    sock.close()
    assert b"typed\n" in got and got.endswith(b"after\n")
    assert client.api.exec_inspect(e["Id"])["ExitCode"] == 0


def test_sdk_archive(client):
    c = client.containers.run("bb", ["sleep", "10000"], detach=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("x")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert c.put_archive("/tmp", data.getvalue())
    bits, stat = c.get_archive("/tmp/x")
    assert stat["size"] == 3
    assert tarfile.open(fileobj=io.BytesIO(b"".join(bits))).extractfile("x").read() == b"abc"


def test_sdk_events(client):
    events = client.events(decode=True, filters={"type": "container", "event": "die"})
    c = client.containers.run("bb", "true", detach=True)
    assert next(e for e in events if e["id"] == c.id)["Action"] == "die"
    events.close()


COMPOSE = """
version: "3"
services:
  web:
    image: bb
    command: httpd -f -v -h /www
  client:
    image: bb
    depends_on: [web]
    command: sh -c 'until wget -qO- http://web/; do sleep 0.1; done; echo client done; sleep 10000'
"""


@pytest.mark.skipif(not os.access("/usr/bin/docker-compose", os.X_OK), reason="no docker-compose")
def test_compose(lab, tmp_path):
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    env = dict(lab.env, DOCKER_HOST=lab.docker_host, COMPOSE_PROJECT_NAME="p" + lab.name())

    def compose(*args):
        return run("/usr/bin/docker-compose", *args, env=env, cwd=tmp_path, timeout=90)
    compose("up", "-d")
    try:
        wait_for(lambda: "client done" in compose("logs", "--no-color", "client").stdout, 30)
        assert "hello from the container" in compose("logs", "--no-color").stdout
        assert compose("exec", "-T", "web", "echo", "in web").stdout == "in web\n"
        assert len(compose("ps", "-q").stdout.split()) == 2
    finally:
        compose("down", "-t", "0")
    assert compose("ps", "-q").stdout == ""
