"""sdk/python against a real pico-apiserver with backend process; paramiko over its socket."""
import base64
import hashlib
import io
import os
import socket
import sys
import threading
import time

import pytest

from lab import ROOT, run, wait_for
from sandboxes import Api, self_signed, token
from pki import Pki

sys.path.insert(0, os.path.join(ROOT, "sdk/python"))
import sandbox_sdk  # noqa: E402
from sandbox_sdk import SandboxClient  # noqa: E402

paramiko = pytest.importorskip("paramiko")
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    a = Api(tmp_path_factory.mktemp("sdk"))
    yield a
    a.end()


@pytest.fixture
def client(api):
    return SandboxClient(f"http://localhost:{api.port}", token="")


@pytest.fixture
def session(client):
    with client.create_session(ttl=3600) as s:
        yield s


def test_life_of_a_session(api, client):
    with client.create_session(ttl=120, metadata={"k": [1]}, idle_timeout=60) as s:
        assert s.status == "running" and s.metadata == {"k": [1]} and s.sandbox_name.startswith("sandbox-")
        assert (s.expires_at - s.created_at).total_seconds() == 120 and s.created_at.tzinfo
        assert client.get(s.session_id).session_id == s.session_id
        assert s.pause().status == "paused" and s.refresh().status == "paused"
        assert s.resume().status == "running" and s.wait_ready() is s
    with pytest.raises(sandbox_sdk.NotFoundError) as e:
        s.refresh()
    assert e.value.status == 404 and e.value.code == "SESSION_NOT_FOUND" and e.value.request_id
    assert client.health()["status"] == "ok"


def test_list_goes_through_pages(client, monkeypatch):
    monkeypatch.setattr(sandbox_sdk.client, "PAGE", 2)
    made = [client.create_session(ttl=60 + i) for i in range(5)]
    ids = [s.session_id for s in made]
    assert [s.session_id for s in client.list()] == ids
    assert [s.session_id for s in client.list(limit=3, offset=1)] == ids[1:4]
    client.delete(ids[0])
    for s in made[1:]:
        s.delete()
    assert client.list() == []


def test_idempotency_key(client):
    a = client.create_session(idempotency_key="once")
    assert client.create_session(idempotency_key="once").session_id == a.session_id
    with pytest.raises(sandbox_sdk.ConflictError):
        client.create_session(ttl=61, idempotency_key="once")
    a.delete()


def test_run(session):
    r = session.run("echo $X; cat; pwd; echo err >&2; exit 3", env={"X": "y"}, cwd="/tmp", stdin="in\n")
    assert (r.stdout, r.stderr, r.exit_code, r.timed_out) == ("y\nin\n/tmp\n", "err\n", 3, False)
    assert session.run_code("import sys; print(6 * 7)").stdout == "42\n"
    assert session.run_code("echo $0", language="bash").stdout == "bash\n"
    with pytest.raises(sandbox_sdk.CommandError) as e:
        session.run("echo no >&2; exit 9", check=True)
    assert e.value.result.exit_code == 9 and "no" in str(e.value)
    with pytest.raises(sandbox_sdk.CommandTimeout):
        session.run("sleep 100", timeout=0.2, check=True)
    with pytest.raises(sandbox_sdk.InvalidRequestError):
        session.run("")


def test_output_as_it_comes(session):
    """The command waits until the first piece has come here."""
    out, err = [], []

    def first(text):
        if not out:
            session.upload(b"", "go")
        out.append(text)
    r = session.run("echo one; until [ -e /workspace/go ]; do sleep 0.05; done; echo two; echo e >&2; exit 4",
                    timeout=30, on_stdout=first, on_stderr=err.append)
    assert "".join(out) == "one\ntwo\n" and "".join(err) == "e\n" and r.exit_code == 4


def test_files(session, tmp_path):
    data = os.urandom(5_000_000)
    (tmp_path / "f").write_bytes(data)
    assert session.upload(tmp_path / "f", "d/a b&c=1") == len(data)
    assert session.download("/workspace/d/a b&c=1") == data
    assert session.upload(io.BytesIO(data), "stream", mode=0o755) == len(data)
    assert session.run("stat -c %a stream").stdout == "755\n"
    assert session.download("stream", tmp_path / "g") == len(data) and (tmp_path / "g").read_bytes() == data
    f = io.BytesIO()
    assert session.download("stream", f) == len(data) and f.getvalue() == data
    assert session.upload(b"", "empty") == 0 and session.download("empty") == b""
    with pytest.raises(sandbox_sdk.NotFoundError) as e:
        session.download("nope", tmp_path / "h")
    assert e.value.code == "FILE_NOT_FOUND"
    with pytest.raises(sandbox_sdk.PermissionDeniedError):
        session.upload(data, "/etc/passwd")
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


def test_paramiko(session, tmp_path):
    with session.connect() as sock, paramiko.Transport(sock) as t:
        t.start_client(timeout=30)
        key = hashlib.sha256(t.get_remote_server_key().asbytes()).digest()
        assert session.host_key_fingerprint == "SHA256:" + base64.b64encode(key).decode().rstrip("=")
        t.auth_password(session.ssh_username, "sandbox")
        with t.open_session() as channel:
            channel.exec_command("whoami; pwd")
            assert channel.makefile().read() == b"sandbox\n/workspace\n" and channel.recv_exit_status() == 0
        data = os.urandom(3_000_000)
        with paramiko.SFTPClient.from_transport(t) as sftp:
            sftp.putfo(io.BytesIO(data), "/workspace/by-sftp")
            assert sftp.stat("/workspace/by-sftp").st_size == len(data)
    assert session.download("by-sftp") == data


def test_paramiko_client_to_a_paused_sandbox(session):
    session.pause()
    ssh = paramiko.SSHClient()
    ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    ssh.connect("sandbox", username="sandbox", password="sandbox", sock=session.connect(), allow_agent=False,
                look_for_keys=False)
    assert ssh.exec_command("python -c 'print(1 + 1)'")[1].read() == b"2\n"
    ssh.close()


def test_many_threads(client, session):
    found = []

    def one(i):
        found.append(session.run(f"echo {i}").stdout)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert sorted(found) == [f"{i}\n" for i in range(8)]


def test_https_tokens_and_owners(tmp_path):
    pki = Pki(str(tmp_path / "pki"))
    pki.issue("api", "api", san="DNS:localhost,IP:127.0.0.1")
    a = Api(tmp_path, "--jwt-secret", SECRET, "--max-sessions-per-user", "1", "--enable-tls", "--tls-cert",
            pki.crt("api"), "--tls-key", pki.key("api"))
    blob = os.urandom(300_000)
    url, ca = f"https://localhost:{a.port}", pki.crt("ca")
    alice = SandboxClient(url, token(SECRET, "alice"), cafile=ca)
    with alice.create_session() as s:
        with s.connect() as sock:
            assert sock.recv(8) == b"SSH-2.0-"
        # paramiko has threads of its own: what they do to one another was seen about once in 60 sessions
        for _ in range(10):
            with s.connect() as sock, paramiko.Transport(sock) as t:
                t.connect(username="sandbox", password="sandbox")
                with t.open_session() as channel:
                    channel.exec_command("cat; echo end")
                    threading.Thread(target=lambda: (channel.sendall(blob), channel.shutdown_write())).start()
                    assert channel.makefile().read() == blob + b"end\n" and channel.recv_exit_status() == 0
        with pytest.raises(sandbox_sdk.RateLimitError) as e:
            alice.create_session()
        assert e.value.retry_after > 0
        with pytest.raises(sandbox_sdk.AuthenticationError):
            SandboxClient(url, cafile=ca).list()
        with pytest.raises(sandbox_sdk.NotFoundError):
            SandboxClient(url, token(SECRET, "mallory"), cafile=ca).get(s.session_id)
        with pytest.raises(sandbox_sdk.ConnectError, match="certificate"):
            SandboxClient(url, token(SECRET, "alice")).list()
        assert len(SandboxClient(url, token(SECRET, "alice"), insecure=True).list()) == 1
    a.stop()
    assert a.proc.returncode == 0 and a.leftovers() == []


def test_tunnel_through_tls(tmp_path):
    """Each direction ends on its own; nothing is lost when nobody reads for a while."""
    context = self_signed(str(tmp_path / "tls"))
    far = socket.create_server(("127.0.0.1", 0))
    a = Api(tmp_path, "--enable-tls", "--tls-cert", f"{tmp_path}/tls.crt", "--tls-key", f"{tmp_path}/tls.key", "--sandbox-address",
            f"127.0.0.1:{far.getsockname()[1]}", backend="address")
    a.tls = context
    session = SandboxClient(f"https://localhost:{a.port}", cafile=f"{tmp_path}/tls.crt").get(a.create()["session_id"])
    blob = os.urandom(8_000_000)

    def take(sock):
        data = bytearray()
        while piece := sock.recv(65536):
            data += piece
        return bytes(data)
    for _ in range(5):
        near = session.connect()
        up = far.accept()[0]
        for s in (near, up):
            s.settimeout(30)
        sender = threading.Thread(target=lambda: (up.sendall(blob), up.shutdown(socket.SHUT_WR)))
        sender.start()
        near.sendall(b"all of it?")
        near.shutdown(socket.SHUT_WR)
        assert take(up) == b"all of it?"
        assert take(near) == blob
        sender.join()
        near.close()
        up.close()
    near = session.connect()
    up = far.accept()[0]
    near.close()
    up.settimeout(30)
    assert up.recv(1) == b""
    up.close()
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "sandbox-tunnel"])
    a.stop()


def test_connect_says_why_not(client):
    s = client.create_session()
    s.delete()
    with pytest.raises(sandbox_sdk.NotFoundError, match="Session not found"):
        s.connect()


def test_expired(client, api):
    s = client.create_session(ttl=2)
    end = time.monotonic() + 20
    with pytest.raises((sandbox_sdk.SessionExpiredError, sandbox_sdk.NotFoundError)):
        while time.monotonic() < end:
            s.refresh()
            time.sleep(0.05)


def serve_once(answer):
    listener = socket.create_server(("127.0.0.1", 0))

    def one():
        s, _ = listener.accept()
        with s:
            s.recv(65536)
            s.sendall(answer)
        listener.close()
    threading.Thread(target=one, daemon=True).start()
    return SandboxClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=10)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"])
def test_servers_that_are_none(answer):
    with pytest.raises(sandbox_sdk.SandboxError):
        serve_once(answer).get("x")


def test_nobody_there():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        with pytest.raises(sandbox_sdk.ConnectError) as e:
            SandboxClient(f"http://127.0.0.1:{s.getsockname()[1]}").health()
    assert isinstance(e.value, ConnectionError)
    for url in ("localhost:8080", "ftp://x", ""):
        with pytest.raises(ValueError):
            SandboxClient(url)


def test_the_guides_example(api):
    code = '''
from sandbox_sdk import SandboxClient

client = SandboxClient("http://localhost:8080", token="")
session = client.create_session(ttl=3600)

print(f"Session ID: {session.session_id}")
print(f"Run: ./bin/test-tunnel -session {session.session_id}")
'''.replace("8080", str(api.port))
    p = run(sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {ROOT + '/sdk/python'!r})\n{code}")
    ident = p.stdout.split("Session ID: ")[1].split()[0]
    assert f"Run: ./bin/test-tunnel -session {ident}" in p.stdout
    SandboxClient(f"http://localhost:{api.port}").delete(ident)
