"""pico-apiserver with backend docker, on the lab's engine."""
import os
import subprocess

import pytest

import sandbox_image
from lab import BIN, CLIS, REMOTE, UnixHTTP, run, wait_for
from sandboxes import Api, banner

pytestmark = pytest.mark.skipif(not CLIS, reason="no docker CLI")
LABEL = '{"label":["managed-by=pico-apiserver"]}'


@pytest.fixture(scope="module")
def image(session_lab):
    sandbox_image.load(session_lab)
    return session_lab


@pytest.fixture(scope="module")
def unix(image):
    return UnixHTTP(image.engine_socket)


def start(lab, tmp, *flags, **kw):
    return Api(tmp, "--docker", "unix://" + lab.engine_socket, "--log-level", "debug", *flags, backend="docker", **kw)


@pytest.fixture(scope="module")
def api(image, tmp_path_factory):
    """Its containers are reached by exec: the laptop has no route to them."""
    a = start(image, tmp_path_factory.mktemp("docker"))
    yield a
    a.end()


@pytest.fixture
def session(api):
    s = api.create()
    yield s
    api.request("DELETE", f"/v1/sessions/{s['session_id']}")


def containers(unix, session=None):
    found = unix.get("/containers/json?all=1")
    return [c for c in found if c["Labels"].get("managed-by") == "pico-apiserver"
            and session in (None, c["Labels"].get("session-id"))]


def test_create_login_delete(api, unix, session):
    sid = session["session_id"]
    (c,) = containers(unix, sid)
    assert c["Labels"]["sandbox"] == session["sandbox_name"] and c["Names"] == ["/" + session["sandbox_name"]]
    assert banner(api, sid).startswith(b"SSH-2.0-OpenSSH")
    r = api.ssh(sid, "whoami; pwd; hostname; python --version; cat", input=b"in\n", stdin=None)
    assert r.returncode == 0, r.stderr
    assert r.stdout.split(b"\n")[:3] == [b"sandbox", b"/workspace", session["sandbox_name"].encode()]
    assert b"Python 3" in r.stdout and r.stdout.endswith(b"in\n")
    assert api.ssh(sid, "exit 7").returncode == 7
    assert api.ssh(sid, "tty", "-tt").stdout.startswith(b"/dev/pts/")
    # what the API says of the host key is what ssh saw
    known = os.path.join(api.tmp, f"known_hosts-{sid}")
    assert session["ssh_host_key_fingerprint"] in run("ssh-keygen", "-lf", known).stdout
    assert api.request("DELETE", f"/v1/sessions/{sid}").status == 200
    assert containers(unix, sid) == []


def test_test_tunnel(api, session, tmp_path):
    """The whole of it, through the engine's exec."""
    blob, back = tmp_path / "blob", tmp_path / "back"
    blob.write_bytes(os.urandom(3_000_000))
    tool = [os.path.join(BIN, "test-tunnel"), "-api", f"http://localhost:{api.port}", "-session", session["session_id"]]
    p = run(*tool, "-upload", f"{blob}:/workspace/blob", "-download", f"blob:{back}")
    assert "🎉 All tests completed successfully!" in p.stdout and "Current directory: /workspace" in p.stderr
    assert "does not tell" not in p.stderr and back.read_bytes() == blob.read_bytes()
    assert "6 runs, 3 at once: 6 passed" in run(*tool, "-n", "6", "-c", "3").stdout


def test_much_data_both_ways(api, session):
    """Through the frames of the exec stream, every byte and both ends of stream."""
    data = os.urandom(3 << 20)
    r = api.ssh(session["session_id"], "cat", input=data, stdin=None)
    assert r.returncode == 0 and r.stdout == data


def test_commands(api, session):
    r = api.run(session["session_id"], "echo out; echo err >&2; exit 3")
    assert (r["stdout"], r["stderr"], r["exit_code"]) == ("out\n", "err\n", 3)


def test_public_key_instead_of_the_password(api, tmp_path):
    key = tmp_path / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    s = api.create(sshPublicKey=(tmp_path / "key.pub").read_text().strip())["session_id"]
    r = api.ssh(s, "whoami", "-i", str(key), "-o", "PasswordAuthentication=no")
    assert r.stdout == b"sandbox\n", r.stderr
    r = api.ssh(s, "whoami", "-o", "PubkeyAuthentication=no")
    assert r.returncode == 255 and b"Permission denied" in r.stderr
    assert api.run(s, "whoami")["stdout"] == "sandbox\n"
    api.request("DELETE", f"/v1/sessions/{s}")


def test_limits(api, unix, session):
    (c,) = containers(unix, session["session_id"])
    host = unix.get(f"/containers/{c['Id']}/json")["HostConfig"]
    assert host["Memory"] == 1 << 30 and host["PidsLimit"] == 512


def test_pause_and_resume(api, unix, session):
    sid = session["session_id"]
    assert api.request("POST", f"/v1/sessions/{sid}/pause").status == 200
    assert containers(unix, sid)[0]["State"] == "paused"
    assert api.request("GET", f"/v1/sessions/{sid}").json["status"] == "paused"
    assert api.request("POST", f"/v1/sessions/{sid}/resume").status == 200
    assert api.ssh(sid, "echo up").stdout == b"up\n"
    assert api.request("POST", f"/v1/sessions/{sid}/pause").status == 200
    assert banner(api, sid).startswith(b"SSH-2.0-")  # CONNECT resumes it
    assert containers(unix, sid)[0]["State"] == "running"


def test_no_such_image(api):
    r = api.request("POST", "/v1/sessions", {"image": "not-there:1"})
    assert r.status >= 400, r.body
    assert "no image not-there:1" in r.json["message"], r.body


def test_an_image_without_sshd(api):
    r = api.request("POST", "/v1/sessions", {"image": "bb:latest"})
    assert r.status >= 400 and "run sshd" in r.json["message"], r.body


def test_container_killed_from_outside(api, unix, session):
    sid = session["session_id"]
    (c,) = containers(unix, sid)
    unix.request("POST", f"/containers/{c['Id']}/kill")
    wait_for(lambda: api.request("GET", f"/v1/sessions/{sid}").json.get("status") == "failed", 20, "the end is seen")


def test_a_name_that_is_taken_is_left_alone(api, unix, image):
    """Removing a session never touches a container that is not its own."""
    docker = [image.cli, "-H", "unix://" + image.engine_socket]
    labels = ["--label", "managed-by=pico-apiserver", "--label", "session-id=x", "--label", "pico-server=another"]
    run(*docker, "create", "--name", "bystander", *labels, "bb:latest", "sleep", "60", env=image.env)
    s = api.create()["session_id"]
    api.request("DELETE", f"/v1/sessions/{s}")
    assert [c["Names"] for c in containers(unix, "x")] == [["/bystander"]]
    run(*docker, "rm", "bystander", env=image.env)


def test_expires_with_its_container(api, unix):
    s = api.create(ttl=4)["session_id"]
    wait_for(lambda: not containers(unix, s), 20, "the container is gone")
    assert api.request("GET", f"/v1/sessions/{s}").status == 410


def test_restart_adopts_and_removes(image, unix, tmp_path):
    a = start(image, tmp_path)
    kept, paused, lost = a.create(), a.create(), a.create()
    a.request("POST", f"/v1/sessions/{paused['session_id']}/pause")
    a.kill()
    os.unlink(next(os.path.join(top, f) for top, _, fs in os.walk(a.state) for f in fs
                   if lost["session_id"] in f))
    a.start()

    def state(s):
        return a.request("GET", f"/v1/sessions/{s['session_id']}").json.get("status")
    wait_for(lambda: state(kept) == "running", 20, "adopted")
    wait_for(lambda: state(paused) == "paused", 20, "adopted as paused")
    wait_for(lambda: not containers(unix, lost["session_id"]), 20, "what nobody knows is removed")
    assert a.ssh(kept["session_id"], "echo still here").stdout == b"still here\n"
    assert banner(a, paused["session_id"]).startswith(b"SSH-2.0-")
    a.end()
    assert containers(unix, kept["session_id"]) == []


@pytest.mark.parametrize("when", ["created", "running"])
def test_killed_in_the_middle_of_a_create(image, unix, tmp_path, when):
    before = {c["Id"] for c in containers(unix)}
    a = start(image, tmp_path)
    p = subprocess.Popen(["curl", "-s", "-X", "POST", f"http://127.0.0.1:{a.port}/v1/sessions"], stdout=subprocess.DEVNULL)
    wait_for(lambda: [c for c in containers(unix) if c["Id"] not in before and when in (c["State"], "created")], 10, when)
    a.kill()
    p.wait()
    a.start()
    wait_for(lambda: {c["Id"] for c in containers(unix)} <= before, 20, "nothing is left")
    assert a.sessions() == []
    a.end()


def test_by_address(image, tmp_path):
    """With a route the tunnel goes to the container's own address."""
    image.remote("iptables", "-I", "DOCKER-USER", "-j", "ACCEPT")
    run("ip", "route", "add", "172.31.0.0/24", "via", REMOTE)
    try:
        a = start(image, tmp_path)
        s = a.create()["session_id"]
        assert a.ssh(s, "echo direct").stdout == b"direct\n"
        assert "docker-by-exec" not in a.text()
        a.end()
    finally:
        run("ip", "route", "del", "172.31.0.0/24", "via", REMOTE)
        image.remote("iptables", "-D", "DOCKER-USER", "-j", "ACCEPT")


def test_auto_takes_the_engine_that_has_the_image(image, tmp_path):
    a = start(image, tmp_path)
    a.stop()
    a.backend = "auto"
    a.start()
    assert "backend=docker" in a.text()
    a.flags = [f for f in a.flags] + ["--sandbox-image", "other:1"]
    a.stop()
    a.start()
    assert "backend=process" in a.text()
    a.end()


def test_no_engine(tmp_path):
    """Says so at create, and at the start in its log."""
    a = Api(tmp_path, "--docker", f"unix://{tmp_path}/none.sock", backend="docker")
    r = a.request("POST", "/v1/sessions")
    assert r.status >= 500 and "none.sock" in r.json["message"], r.body
    a.stop()
