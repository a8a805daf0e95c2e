"""pico-apiserver with backend process: the API, by real requests."""
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lab import run, wait_for
from sandboxes import Api, FakeEngine, Reply, b64, jwt, self_signed, token

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    a = Api(tmp_path_factory.mktemp("api"))
    yield a
    a.end()


@pytest.fixture
def session(api):
    s = api.create()
    yield s["session_id"]
    api.request("DELETE", f"/v1/sessions/{s['session_id']}")


def error(reply, status, code):
    assert reply.status == status, reply.body
    e = reply.json
    assert e["error"] == code, e
    assert e["message"] and e["timestamp"].endswith("Z")
    assert e.get("request_id") or e.get("requestId")
    return e


def test_curl_as_the_guide_says(api):
    base = f"http://localhost:{api.port}"
    assert json.loads(run("curl", "-sf", f"{base}/health").stdout)["status"] == "ok"
    r = json.loads(run("curl", "-s", "-X", "POST", f"{base}/v1/sessions", "-H", "Content-Type: application/json",
                       "-d", '{"ttl": 3600, "image": "sandbox:latest"}').stdout)
    assert r["status"] == "running" and r["sandbox_name"].startswith("sandbox-")
    assert r["ssh_host_key_fingerprint"].startswith("SHA256:")
    assert r["metadata"] == {} and r["ttl"] == 3600
    assert json.loads(run("curl", "-s", f"{base}/v1/sessions").stdout)["total"] >= 1
    run("curl", "-sf", "-X", "DELETE", f"{base}/v1/sessions/{r['session_id']}")
    error(api.request("GET", f"/v1/sessions/{r['session_id']}"), 404, "SESSION_NOT_FOUND")


def test_create_is_fast(api):
    best = 10.0
    for _ in range(5):
        t = time.monotonic()
        s = api.create()
        best = min(best, time.monotonic() - t)
        api.request("DELETE", f"/v1/sessions/{s['session_id']}")
    limit = 0.1 if not os.environ.get("TSTUNNEL_SAN") else 1
    assert best < limit, f"ready after {best:.3f} s"


def test_camel_case_twin(api):
    r = api.request("POST", "/v1/sandboxes", {"ttl": 100, "idleTimeout": 50, "metadata": {"k": ["v", 1]}})
    assert r.status == 201, r.body
    s = r.json
    assert s["idleTimeout"] == 50 and s["metadata"] == {"k": ["v", 1]} and s["createdAt"] and s["expiresAt"]
    twin = api.request("GET", f"/v1/sessions/{s['sandboxId']}").json
    assert twin["session_id"] == s["sandboxId"] and twin["created_at"] == s["createdAt"]
    assert s["sandboxId"] in [x["sandboxId"] for x in api.request("GET", "/v1/sandboxes?limit=100").json["sandboxes"]]
    assert "requestId" in api.request("GET", "/v1/sandboxes/nope").json
    r = api.request("POST", f"/v1/sandboxes/{s['sandboxId']}/commands", {"command": "exit 3"}).json
    assert r["exitCode"] == 3 and r["durationMs"] >= 0 and not r["timedOut"]
    sock, rest = api.connect(s["sandboxId"], path="/v1/sandboxes/{}")
    assert (rest + sock.recv(100)).startswith(b"SSH-2.0-")
    sock.close()
    assert api.request("DELETE", f"/v1/sandboxes/{s['sandboxId']}").json["status"] == "deleted"


def test_list_in_order_of_creation(api):
    made = [api.create(ttl=60 + i)["session_id"] for i in range(4)]
    listed = [s["session_id"] for s in api.sessions()]
    assert [x for x in listed if x in made] == made
    total = api.request("GET", "/v1/sessions").json["total"]
    page = api.request("GET", f"/v1/sessions?limit=2&offset={total - 2}").json
    assert [s["session_id"] for s in page["sessions"]] == made[2:] and page["total"] == total
    assert api.request("GET", "/v1/sessions?limit=1&offset=100000").json["sessions"] == []
    for query in ("limit=0", "limit=101", "offset=-1", "limit=x"):
        error(api.request("GET", f"/v1/sessions?{query}"), 400, "INVALID_REQUEST")
    for s in made:
        api.request("DELETE", f"/v1/sessions/{s}")


@pytest.mark.parametrize("body", [{"ttl": 0}, {"ttl": 28801}, {"ttl": "60"}, {"ttl": 1.5}, {"image": 5}, {"image": "a b"},
                                  {"sshPublicKey": "no key"}, {"sshPublicKey": "ssh-ed25519 AAAA\nx"},
                                  {"metadata": []}, {"metadata": {"x": "y" * 9000}}, {"idleTimeout": -1}, []])
def test_create_refuses(api, body):
    error(api.request("POST", "/v1/sessions", body), 400, "INVALID_REQUEST")


def test_statuses(api, session):
    error(api.request("POST", "/v1/sessions", "{", headers={"Content-Type": "application/json"}), 400, "INVALID_REQUEST")
    error(api.request("POST", "/v1/sessions", "ttl=1", headers={"Content-Type": "text/plain"}), 415, "UNSUPPORTED_MEDIA_TYPE")
    error(api.request("POST", "/v1/sessions", {"metadata": {"x": "y" * 70000}}), 413, "PAYLOAD_TOO_LARGE")
    one = f"/v1/sessions/{session}"
    for method, path, allow in (("PATCH", one, "GET, HEAD, DELETE, CONNECT"), ("PUT", "/v1/sessions", "GET, HEAD, POST"),
                                ("GET", one + "/tunnel", "CONNECT"), ("GET", one + "/pause", "POST"), ("PUT", one + "/commands", "POST"),
                                ("DELETE", one + "/files", "PUT, POST, GET"), ("POST", "/metrics", "GET, HEAD"),
                                ("POST", "/health", "GET, HEAD")):
        r = api.request(method, path)
        error(r, 405, "METHOD_NOT_ALLOWED")
        assert r.headers["Allow"] == allow, path
    error(api.request("GET", "/v1/nothing"), 404, "NOT_FOUND")
    error(api.request("GET", f"/v1/sessions/{session}/nothing"), 404, "NOT_FOUND")
    r = api.request("GET", "/v1/sessions/x", headers={"X-Request-Id": "my-id.1"})
    assert r.headers["X-Request-Id"] == "my-id.1" and r.json["request_id"] == "my-id.1"
    assert r.headers["X-Error-Code"] == "SESSION_NOT_FOUND"
    error(api.request("GET", "/v1/sessions", headers={"Origin": "http://evil.example"}), 403, "FORBIDDEN")
    error(api.request("GET", "/v1/sessions", headers={"Host": "evil.example"}), 403, "FORBIDDEN")
    assert b"pico_sessions{state=\"running\"}" in api.request("GET", "/metrics").body


def raw(api, data):
    """All that the server says to these bytes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as s:
        s.sendall(data)
        text = b""
        while piece := s.recv(4096):
            text += piece
    head, body = text.split(b"\r\n\r\n", 1)
    return Reply(int(head.split()[1]), head.decode(), body)


def test_requests_that_are_none_or_do_not_come(tmp_path):
    api = Api(tmp_path, "--request-timeout", "300ms", "--sandbox-address", "127.0.0.1:1", backend="address")
    s = api.create()["session_id"]
    host = b"Host: localhost\r\n"
    late = (b"GET /v1/sess", b"POST /v1/sessions HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
            f"POST /v1/sandboxes/{s}/commands HTTP/1.1\r\n".encode() + host
            + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    for data in late:
        r = raw(api, data)
        error(r, 408, "REQUEST_TIMEOUT")
        assert "Connection: close" in r.headers
    error(raw(api, b"garbage\r\n\r\n"), 400, "BAD_REQUEST")
    error(raw(api, b"POST /v1/sessions HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
          400, "BAD_REQUEST")
    error(raw(api, b"GET / HTTP/1.1\r\n" + host + b"X: " + b"y" * 70000 + b"\r\n\r\n"), 431, "HEADERS_TOO_LARGE")
    error(raw(api, b"GET http://localhost/v1/sessions HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n"), 400, "BAD_REQUEST")
    assert [x["session_id"] for x in api.sessions()] == [s]
    api.end()


def test_while_it_is_being_made(tmp_path):
    """An engine that does not answer: the session is there, and nothing can be done with it but to end it."""
    engine = FakeEngine(tmp_path / "engine")
    try:
        api = Api(tmp_path, "--docker", f"unix://{tmp_path}/engine", "--ready-timeout", "2s", backend="docker")
        r = api.request("POST", "/v1/sessions", headers={"Prefer": "respond-async"})
        assert r.status == 202 and r.json["status"] == "creating" and r.json["ssh_host_key_fingerprint"] is None
        s = r.json["session_id"]
        for verb in ("pause", "resume"):
            error(api.request("POST", f"/v1/sessions/{s}/{verb}"), 409, "INVALID_STATE")
        r = api.request("POST", f"/v1/sessions/{s}/commands", {"command": "true"})
        error(r, 503, "SANDBOX_NOT_READY")
        assert int(r.headers["Retry-After"]) > 0
        reply, _ = api.connect(s)
        assert (reply.status, reply.json["message"], reply.json["detail"]) == (503, "Sandbox not ready", "creating")
        r = api.request("POST", "/v1/sessions")
        error(r, 503, "SANDBOX_FAILED")
        assert "not ready in time" in r.json["message"]
        wait_for(lambda: api.request("GET", f"/v1/sessions/{s}").json["status"] == "failed")
        engine.go.set()
        api.end()
        assert engine.made == []
    finally:
        engine.close()


def test_client_that_leaves(tmp_path):
    """Before the answer: its sandbox goes, unless there is a key to ask again with."""
    engine = FakeEngine(tmp_path / "engine")
    try:
        api = Api(tmp_path, "--docker", f"unix://{tmp_path}/engine", backend="docker")
        for key in ("", "Idempotency-Key: left\r\n"):
            engine.asked.clear()
            with socket.create_connection(("127.0.0.1", api.port)) as s:
                s.sendall(f"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 0\r\n\r\n".encode())
                assert engine.asked.wait(10)
            if not key:
                wait_for(lambda: api.sessions() == [])
        r = api.request("POST", "/v1/sessions", headers={"Idempotency-Key": "left", "Prefer": "respond-async"})
        assert r.status == 202 and r.headers["Idempotent-Replayed"] == "true"
        assert [x["session_id"] for x in api.sessions()] == [r.json["session_id"]]
        engine.go.set()
        wait_for(lambda: not engine.made and api.text().count("session-gone") == 1)
        api.end()
        assert engine.made == []
    finally:
        engine.close()


def test_killed_before_the_engine_was_done(tmp_path):
    """The next server finds no container at its start; the one that comes of it later does not stay."""
    engine = FakeEngine(tmp_path / "engine")
    try:
        api = Api(tmp_path, "--docker", f"unix://{tmp_path}/engine", backend="docker")
        assert api.request("POST", "/v1/sessions", headers={"Prefer": "respond-async"}).status == 202
        assert engine.asked.wait(10)
        api.kill()
        api.start()
        wait_for(lambda: "session-lost" in api.text())
        assert api.sessions() == [] and engine.made == []
        engine.go.set()
        wait_for(lambda: engine.made)
        wait_for(lambda: not engine.made, 20, "the container is removed")
        api.end()
    finally:
        engine.close()


def test_idempotency(api):
    key = {"Idempotency-Key": "k1", "Content-Type": "application/json"}
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(api.request("POST", "/v1/sessions", '{"ttl":99}', headers=key)))
               for _ in range(5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert {r.status for r in replies} == {201}
    ids = {r.json["session_id"] for r in replies}
    assert len(ids) == 1
    assert sorted(r.headers.get("Idempotent-Replayed", "") for r in replies) == [""] + ["true"] * 4
    error(api.request("POST", "/v1/sessions", '{"ttl":98}', headers=key), 409, "IDEMPOTENCY_CONFLICT")
    api.request("DELETE", f"/v1/sessions/{ids.pop()}")


def test_respond_async(api):
    before = {s["session_id"] for s in api.sessions()}
    r = api.request("POST", "/v1/sessions", headers={"Prefer": "respond-async"})
    assert r.status in (201, 202)
    wait_for(lambda: api.request("GET", r.headers["Location"]).json["status"] == "running")
    api.request("DELETE", r.headers["Location"])
    assert {s["session_id"] for s in api.sessions()} == before


def test_commands(api, session):
    r = api.run(session, "echo out; echo err >&2; cat; pwd; echo $X; exit 7", stdin="in\n", env={"X": "ö"}, cwd="/tmp")
    assert (r["stdout"], r["stderr"], r["exit_code"]) == ("out\nin\n/tmp\nö\n", "err\n", 7)
    assert api.run(session, "pwd; whoami; echo $HOME")["stdout"] == "/workspace\nsandbox\n/home/sandbox\n"
    assert api.run(session, "kill -TERM $$")["exit_code"] == 128 + 15
    r = api.run(session, "head -c 3000000 /dev/zero | tr '\\0' x")
    assert r["truncated"] and len(r["stdout"]) == 1 << 20 and r["exit_code"] == 0
    for body in ({}, {"command": ""}, {"command": "x", "env": {"A=": "x"}}, {"command": "x", "timeout": 0},
                 {"command": 5}, {"command": "x", "env": []}):
        error(api.request("POST", f"/v1/sessions/{session}/commands", body), 400, "INVALID_REQUEST")
    error(api.request("POST", f"/v1/sessions/{session}/commands", {"command": "x", "cwd": "/nope"}), 400, "COMMAND_NOT_FOUND")


def test_timeout_kills_the_group(api, session):
    r = api.run(session, "sleep 4321 & sleep 4321", timeout=0.3)
    assert r["timed_out"] and r["exit_code"] == 124 and "killed" in r["message"] and r["duration_ms"] < 5000
    wait_for(lambda: api.run(session, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 4321'")["stdout"] == "0\n")


def test_background_children_do_not_hold_the_reply(api, session):
    t = time.monotonic()
    assert api.run(session, "sleep 30 & echo done")["stdout"] == "done\n"
    assert time.monotonic() - t < 10
    api.run(session, "pkill sleep")


def test_streaming(api, session):
    r = api.request("POST", f"/v1/sessions/{session}/commands",
                    {"command": "printf 'a\\303'; sleep 0.2; printf '\\244b'; echo e >&2", "stream": True})
    assert r.headers["Transfer-Encoding"] == "chunked" and r.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in r.body.splitlines()]
    assert "".join(x["data"] for x in lines if x["type"] == "stdout") == "aäb"
    assert "".join(x["data"] for x in lines if x["type"] == "stderr") == "e\n"
    assert lines[-1]["type"] == "exit" and lines[-1]["exit_code"] == 0
    r = api.request("POST", f"/v1/sessions/{session}/commands", {"command": "head -c 20000000 /dev/zero | tr '\\0' y", "stream": True})
    lines = [json.loads(line) for line in r.body.splitlines()]
    assert sum(len(x.get("data", "")) for x in lines) == 20000000 and lines[-1]["exit_code"] == 0


def test_code(api, session):
    def code(**body):
        return api.request("POST", f"/v1/sessions/{session}/code", body)
    assert code(code="print(sum(range(100)))").json["stdout"] == "4950\n"
    assert code(language="bash", code="echo $((6*7))").json["stdout"] == "42\n"
    assert code(code="1/0").json["exit_code"] == 1
    r = code(language="javascript", code="console.log(6 * 7)")  # by the host's node, if it has one
    assert r.json["stdout"] == "42\n" if shutil.which("node") else r.json["error"] == "COMMAND_NOT_FOUND"
    error(code(language="cobol", code="x"), 400, "INVALID_REQUEST")


def test_files(api, session):
    blob = os.urandom(5_000_000) + b"\0\r\n"
    path = f"/v1/sessions/{session}/files?path="
    r = api.request("PUT", path + "new/dir/blob", blob)
    assert r.status == 201 and r.json["size"] == len(blob)
    assert api.request("GET", path + "/workspace/new/dir/blob").body == blob
    assert api.request("PUT", path + "empty", b"").status == 201
    assert api.request("GET", path + "empty").body == b""
    assert api.run(session, "stat -c '%U %a' empty")["stdout"] == "sandbox 644\n"
    error(api.request("GET", path + "missing"), 404, "FILE_NOT_FOUND")
    error(api.request("GET", path + "new"), 409, "NOT_A_FILE")
    error(api.request("PUT", path + "new", b"x"), 409, "NOT_A_FILE")
    error(api.request("GET", f"/v1/sessions/{session}/files"), 400, "INVALID_REQUEST")
    api.run(session, "ln -s / out; ln -s /etc/passwd link; ln -s /tmp tmp")
    for bad in ("/etc/passwd", "../etc/passwd", "out/etc/passwd", "link", "/workspace/../etc/hosts", "out/nothing"):
        error(api.request("GET", path + bad), 403, "PATH_FORBIDDEN")
    for bad in ("/tmp/x", "../x", "tmp/x", "out/tmp/y"):
        error(api.request("PUT", path + bad, b"x"), 403, "PATH_FORBIDDEN")
    assert api.run(session, "ls /tmp")["stdout"] == ""


def test_full_disk(tmp_path):
    """Hurts nobody but the upload, nor does memory that runs out."""
    api = Api(tmp_path, "--sandbox-memory", "128m")
    s = api.create()["session_id"]
    r = api.request("PUT", f"/v1/sessions/{s}/files?path=big", iter([bytes(1 << 20)] * 150))
    error(r, 507, "NO_SPACE")
    assert api.run(s, "ls -A")["stdout"] == ""
    assert "No space left" in api.run(s, "head -c 150000000 /dev/zero >full")["stderr"]
    r = api.run(s, "rm full; python3 -c 'x = bytearray(150 << 20)'")
    assert r["exit_code"] != 0 or not os.access("/sys/fs/cgroup/memory", os.W_OK)
    assert api.run(s, "echo alive")["stdout"] == "alive\n"
    api.end()


def test_client_that_leaves_kills_its_command(api, session):
    s = socket.create_connection(("127.0.0.1", api.port))
    body = json.dumps({"command": "sleep 4323"}).encode()
    s.sendall(f"POST /v1/sessions/{session}/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_for(lambda: api.run(session, "pgrep -fc '[s]leep 4323'")["stdout"] == "1\n")
    s.close()
    wait_for(lambda: api.run(session, "pgrep -fc '[s]leep 4323'")["stdout"] == "0\n")


def test_upload_that_breaks_off(api, session):
    s = socket.create_connection(("127.0.0.1", api.port))
    s.sendall(f"PUT /v1/sessions/{session}/files?path=half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode()
              + b"x" * 1000)
    wait_for(lambda: ".upload." in api.run(session, "ls -A")["stdout"])
    s.close()
    wait_for(lambda: api.run(session, "ls -A")["stdout"] == "")


def test_pause_and_resume(api, session):
    api.run(session, "nohup sh -c 'while :; do date +%s%N >>ticks; sleep 0.02; done' >/dev/null 2>&1 &")
    wait_for(lambda: int(api.run(session, "cat ticks | wc -l")["stdout"]) > 3)
    assert api.request("POST", f"/v1/sessions/{session}/pause").json["status"] == "paused"
    assert api.request("POST", f"/v1/sessions/{session}/pause").json["status"] == "paused"
    time.sleep(0.5)
    sock, rest = api.connect(session)  # resumes, while CONNECT waits
    assert (rest + sock.recv(100)).startswith(b"SSH-2.0-")
    sock.close()
    assert api.request("GET", f"/v1/sessions/{session}").json["status"] == "running"
    ticks = [int(x) for x in api.run(session, "cat ticks")["stdout"].split()]
    assert max(b - a for a, b in zip(ticks, ticks[1:])) > 400_000_000, "it ran on while it was paused"
    assert api.request("POST", f"/v1/sessions/{session}/resume").json["status"] == "running"


def test_tokens(tmp_path):
    api = Api(tmp_path, "--jwt-secret", SECRET, "--jwt-audience", "pico", "--jwt-issuer", "me", "--max-sessions-per-user", "2")
    now = int(time.time())
    good = dict(aud="pico", iss="me")
    a, b = token(SECRET, "alice", **good), token(SECRET, "bob", **good)
    try:
        assert api.request("GET", "/health").status == 200
        r = api.request("GET", "/v1/sessions")
        error(r, 401, "UNAUTHORIZED")
        assert r.headers["WWW-Authenticate"].startswith("Bearer")
        ok = {"sub": "alice", "exp": now + 60, **good}

        def header(**h):
            return jwt(SECRET, ok, {"alg": "HS256", **h})

        def but(**claims):
            return jwt(SECRET, {k: v for k, v in {**ok, **claims}.items() if v is not None})
        none = header(alg="none")
        for fine in (jwt(SECRET, ok), header(typ="at+jwt"), but(aud=["x", "pico"]), but(nbf=now - 5, iat=now), but(exp=now - 5)):
            assert api.request("GET", "/v1/sessions", token=fine).status == 200
        for bad, says in ((token(SECRET[::-1], "alice", **good), "signature"), (none, "algorithm"),
                          (none.rsplit(".", 1)[0] + ".", "algorithm"), (header(alg="RS256"), "algorithm"),
                          (header(alg="HS512"), "algorithm"), (header(crit=["exp"]), "algorithm"), (but(aud=None), "audience"),
                          (but(aud="other"), "audience"), (but(aud=["x"]), "audience"), (but(iss=None), "issuer"),
                          (but(iss="you"), "issuer"), (but(exp=now - 60), "expired"), (but(exp=None), "exp"),
                          (but(exp=str(now + 60)), "exp"), (but(nbf=now + 300), "not valid yet"), (but(iat=now + 300), "future"),
                          (but(sub=None), "sub"), (but(sub=""), "sub"), (but(sub=5), "sub"),
                          (a[:-2] + ("AA" if a[-2:] != "AA" else "BB"), "signature"), ("x", "malformed"), ("a.b.c", "algorithm")):
            assert says in error(api.request("GET", "/v1/sessions", token=bad), 401, "UNAUTHORIZED")["message"]
        assert api.request("GET", "/v1/sessions", headers={"Authorization": "Basic " + a}).status == 401
        s = api.create(token=a, ttl=60)["session_id"]
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("GET", "/files?path=x"),
                             ("PUT", "/files?path=x"), ("POST", "/commands"), ("POST", "/code")):
            error(api.request(method, f"/v1/sessions/{s}{path}", token=b), 404, "SESSION_NOT_FOUND")
        key = {"Idempotency-Key": "one"}
        mine = api.request("POST", "/v1/sessions", token=a, headers=key).json["session_id"]
        assert api.request("POST", "/v1/sessions", token=a, headers=key).json["session_id"] == mine
        other = api.request("POST", "/v1/sessions", token=b, headers=key).json["session_id"]
        assert other != mine, "a key is its owner's"
        for t, x in ((a, mine), (b, other)):
            api.request("DELETE", f"/v1/sessions/{x}", token=t)
        assert api.sessions(token=b) == [] and len(api.sessions(token=a)) == 1
        reply, _ = api.connect(s, token=b)
        assert reply.status == 404 and reply.json["message"] == "Session not found"
        reply, _ = api.connect(s)
        assert reply.status == 401
        sock, rest = api.connect(s, token=a, header="Proxy-Authorization")
        sock.close()
        assert api.ssh(s, "echo ok", token=a).stdout == b"ok\n"
        api.create(token=a)
        r = api.request("POST", "/v1/sessions", token=a)
        error(r, 429, "TOO_MANY_SESSIONS")
        assert int(r.headers["Retry-After"]) > 0
        for x in api.sessions(token=a):
            api.request("DELETE", f"/v1/sessions/{x['session_id']}", token=a)
    finally:
        api.stop()
    assert api.leftovers() == []


def test_reload(tmp_path):
    """SIGHUP: new certificate and secret for what comes, nothing changes for what is there; or all stays as it was."""
    first, second = (self_signed(str(tmp_path / n)) for n in ("first", "second"))
    crt, key, secret = (str(tmp_path / n) for n in ("tls.crt", "tls.key", "secret"))

    def install(name, text):
        for path, to in ((f"{name}.crt", crt), (f"{name}.key", key)):
            shutil.copy(tmp_path / path, to)
        (tmp_path / "secret").write_text(text + "\n")
    far = socket.create_server(("127.0.0.1", 0))
    install("first", SECRET)
    api = Api(tmp_path, "--enable-tls", "--tls-cert", crt, "--tls-key", key, "--jwt-secret-file", secret, "--sandbox-address",
              f"127.0.0.1:{far.getsockname()[1]}", backend="address")
    api.tls = first
    old, new = token(SECRET, "alice"), token(SECRET[::-1], "alice")
    sock, _ = api.connect(api.create(token=old)["session_id"], token=old)
    up = far.accept()[0]

    def hup(says):
        n = api.text().count(says)
        api.proc.send_signal(signal.SIGHUP)
        wait_for(lambda: api.text().count(says) > n, 10, says)
    install("second", SECRET[::-1])
    hup("reload done")
    with pytest.raises(ssl.SSLCertVerificationError):
        api.request("GET", "/health")
    api.tls = second
    assert api.request("GET", "/v1/sessions", token=old).status == 401
    assert len(api.sessions(token=new)) == 1
    install("first", "short")
    hup("reload kept=old")
    install("first", SECRET)
    shutil.copy(tmp_path / "second.key", key)
    hup("reload kept=old")
    assert len(api.sessions(token=new)) == 1
    for a, b in ((sock, up), (up, sock)):  # the tunnel knows nothing of all that
        a.sendall(b"still here")
        assert b.recv(100) == b"still here"
    api.stop()


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_public_keys(tmp_path, kind):
    key, pub = tmp_path / "k.pem", tmp_path / "k.pub"
    argv = {"rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ed25519": ["-algorithm", "ED25519"],
            "ec": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]}[kind]
    run("openssl", "genpkey", *argv, "-out", str(key))
    run("openssl", "pkey", "-in", str(key), "-pubout", "-out", str(pub))
    api = Api(tmp_path, "--jwt-public-key", str(pub), "--sandbox-address", "127.0.0.1:1", backend="address")
    try:
        alg = {"rsa": "RS256", "ec": "ES256", "ed25519": "EdDSA"}[kind]
        body = b64(json.dumps({"alg": alg}).encode()) + "." + b64(json.dumps({"sub": "u", "exp": int(time.time()) + 60}).encode())
        msg, sig = tmp_path / "m", tmp_path / "sig"
        msg.write_text(body)
        if kind == "ed25519":
            run("openssl", "pkeyutl", "-sign", "-rawin", "-in", str(msg), "-inkey", str(key), "-out", str(sig))
        else:
            run("openssl", "dgst", "-sha256", "-sign", str(key), "-out", str(sig), str(msg))
        raw = sig.read_bytes()
        if kind == "ec":  # DER to r || s
            rl = raw[3]
            r, s = raw[4:4 + rl], raw[4 + rl + 2:]
            raw = r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")
        assert api.request("GET", "/v1/sessions", token=f"{body}.{b64(raw)}").status == 200
        raw = bytes([raw[0] ^ 1]) + raw[1:]
        assert api.request("GET", "/v1/sessions", token=f"{body}.{b64(raw)}").status == 401
        confused = jwt(pub.read_text(), {"sub": "u", "exp": int(time.time()) + 60})
        assert api.request("GET", "/v1/sessions", token=confused).status == 401
    finally:
        api.stop()


def test_says_what_is_wrong(tmp_path):
    from lab import BIN
    exe = os.path.join(BIN, "pico-apiserver")

    def fails(*argv, code=1, **kw):
        p = subprocess.run([exe, "--state-dir", str(tmp_path / "s"), *argv], capture_output=True, text=True, timeout=20, **kw)
        assert p.returncode == code and p.stderr, (p.returncode, p.stderr)
        return p.stderr
    assert "--backend must be" in fails("--backend", "nope")
    assert "too short" in fails("--jwt-secret", "short")
    assert "exclude" in fails("--jwt-secret", SECRET, "--jwt-public-key", "/x")
    assert "no such file" in fails("--jwt-public-key", "/nope")
    assert "together" in fails("--enable-tls")
    assert "--sandbox-address" in fails("--backend", "address")
    assert "root" in fails("--backend", "process", "--state-dir", "/tmp/pico-nobody-test", user=65534, extra_groups=[])
    assert "Usage" in subprocess.run([exe, "--help"], capture_output=True, text=True).stdout
