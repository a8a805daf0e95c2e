"""docker build: the classic builder, and BuildKit, whose session is HTTP/2 upgraded on our way."""
import os

import pytest

DOCKERFILE = """
FROM bb
ARG WHO=nobody
COPY hello.txt /hello.txt
COPY big /big
RUN cat /hello.txt > /made && echo $WHO >> /made && wc -c < /big >> /made
CMD ["cat", "/made"]
"""


@pytest.fixture
def context(tmp_path):
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "hello.txt").write_text("hello\n")
    (tmp_path / "big").write_bytes(os.urandom(5_000_000))
    return tmp_path


def _build(docker, context, buildkit, *args):
    tag = "built:" + docker.lab.name()
    r = docker("build", "-t", tag, "--build-arg", "WHO=tester", *args, context,
               env={"DOCKER_BUILDKIT": "1" if buildkit else "0"}, timeout=120)
    assert docker.out("run", "--rm", tag) == "hello\ntester\n5000000"
    docker("rmi", "-f", tag)
    return r


def test_classic(docker, context):
    r = _build(docker, context, False)
    assert "Step 1/" in r.stdout


def test_buildkit(debian_docker, context):
    r = _build(debian_docker, context, True, "--progress=plain")
    assert "#1 " in r.stderr and "Step 1/" not in r.stdout


def test_buildkit_failure_has_the_builders_message(debian_docker, context):
    (context / "Dockerfile").write_text("FROM bb\nRUN echo before && exit 3\n")
    r = debian_docker("build", context, env={"DOCKER_BUILDKIT": "1"}, check=False, timeout=60)
    assert r.returncode != 0 and "exit code: 3" in r.stderr


def test_build_from_stdin(docker, context):
    r = docker("build", "-q", "-", input="FROM bb\nRUN echo from stdin > /x\nCMD cat /x\n",
               env={"DOCKER_BUILDKIT": "0"}, timeout=60)
    image = r.stdout.strip()
    assert docker.out("run", "--rm", image) == "from stdin"
    docker("rmi", image)
