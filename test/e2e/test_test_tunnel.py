"""test-tunnel against a real pico-apiserver with backend process: what its guide shows, as written there."""
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading

import pytest

from lab import BIN, FULL, ROOT, run, wait_for
from sandboxes import Api, token
from pki import Pki

TOOL = os.path.join(BIN, "test-tunnel")
SECRET = "0123456789abcdef0123456789abcdef"
STAMP = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d "

# "完整测试流程脚本" of the guide, byte for byte but for the line with kubectl: KUBECTL below stands in for it.
SCRIPT = r'''#!/bin/bash
set -e

echo "========================================="
echo "完整 Tunnel 测试流程"
echo "========================================="

# 步骤 1: 检查 pico-apiserver
echo -e "\n[1/5] 检查 pico-apiserver..."
if curl -s http://localhost:8080/health > /dev/null; then
    echo "✅ pico-apiserver 运行中"
else
    echo "❌ pico-apiserver 未运行"
    echo "请先运行: make run"
    exit 1
fi

# 步骤 2: 创建 session
echo -e "\n[2/5] 创建 sandbox session..."
RESPONSE=$(curl -s -X POST http://localhost:8080/v1/sessions \
  -H "Content-Type: application/json" \
  -d '{"ttl": 3600, "image": "sandbox:latest"}')

SESSION_ID=$(echo $RESPONSE | jq -r '.session_id')
echo "✅ Session 创建成功: $SESSION_ID"

# 步骤 3: 等待 sandbox 就绪
echo -e "\n[3/5] 等待 sandbox pod 就绪..."
SANDBOX_NAME=$(echo $RESPONSE | jq -r '.sandbox_name')
KUBECTL
echo "✅ Sandbox 就绪"

# 步骤 4: 运行 tunnel 测试
echo -e "\n[4/5] 运行 tunnel 测试..."
./bin/test-tunnel -session $SESSION_ID
echo "✅ Tunnel 测试成功"

# 步骤 5: 清理
echo -e "\n[5/5] 清理资源..."
curl -s -X DELETE http://localhost:8080/v1/sessions/$SESSION_ID
echo "✅ Session 已删除"

echo -e "\n========================================="
echo "🎉 所有测试完成！"
echo "========================================="
'''.replace("KUBECTL", r'''[ -n "$SANDBOX_NAME" ]
until curl -s http://localhost:8080/v1/sessions/$SESSION_ID | jq -e '.status == "running"' >/dev/null; do :; done''')

# "并发测试", then "压力测试" (with fewer rounds unless TSLAB_FULL=1).
CONCURRENT = r'''
for i in {1..5}; do
  SESSION_ID=$(curl -s -X POST http://localhost:8080/v1/sessions \
    -H "Content-Type: application/json" \
    -d '{"ttl": 3600}' | jq -r '.session_id')
  
  ./bin/test-tunnel -session $SESSION_ID &
done
wait
'''
STRESS = r'''
for i in {1..100}; do
  echo "Test iteration $i"
  ./bin/test-tunnel -session <id> -cmd "echo Test $i"
  sleep 1
done
'''

# The guide's "测试场景" that need no Internet: what is run, and a line of its output.
SCENES = [
    ("python -c 'import sys; print(sys.version)'", r"3\.\d+\.\d+ "),
    ("python -c 'print(sum(range(100)))'", "4950$"),
    ("echo 'test data' > /tmp/test.txt && cat /tmp/test.txt", "test data$"),
    ("ls -la /workspace", "total "),
    ("sleep 5 && echo 'Sleep completed'", "Sleep completed$"),
    ("for i in {1..100}; do echo Line $i; done", "Line 100$"),
    ("whoami", "sandbox$"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    a = Api(tmp_path_factory.mktemp("test-tunnel"))
    yield a
    a.end()


@pytest.fixture
def session(api):
    s = api.create()["session_id"]
    yield s
    api.request("DELETE", f"/v1/sessions/{s}")


def tool(url, *args, session=None, **kw):
    kw.setdefault("check", False)
    flags = ["-session", session] if session else []
    return run(TOOL, "-api", url if isinstance(url, str) else f"http://localhost:{url.port}", *flags, *args, **kw)


def error_of(p):
    """The line that starts with Error:, of a run that has to fail."""
    assert p.returncode == 1, (p.returncode, p.stdout, p.stderr)
    assert "🎉" not in p.stdout
    return next(line for line in p.stderr.splitlines() if line.startswith("Error: "))


def test_output_is_the_guides(api, session):
    """Both outputs together, on one pipe, as a person sees them."""
    r, w = os.pipe()
    p = subprocess.Popen([TOOL, "-api", f"http://localhost:{api.port}", "-session", session], stdout=w, stderr=w)
    os.close(w)
    with open(r, encoding="utf-8") as f:
        text = f.read()
    assert p.wait(30) == 0, text
    want = f"""T Testing tunnel connection to session: {session}
T Connecting to localhost:{api.port}
T Sending CONNECT request to /v1/sessions/{session}/tunnel
T Received response: 200 Connection Established
T ✅ HTTP CONNECT tunnel established successfully
T Establishing SSH connection as user: sandbox
T ✅ SSH connection established successfully
T ✅ Command executed successfully

--- Command Output ---
Command: echo 'Hello from sandbox'
Exit Code: 0
Stdout:
Hello from sandbox

--- End Output ---

T Running additional tests...
T ✅ Current directory: /workspace
T ✅ Current user: sandbox
T ✅ Python version: Python 3.V

🎉 All tests completed successfully!
"""
    text = re.sub("^" + STAMP, "T ", text, flags=re.M)
    assert re.sub(r"Python 3\.\S+", "Python 3.V", text) == want


@pytest.mark.parametrize("command,line", SCENES, ids=[c.split()[0] + str(i) for i, (c, _) in enumerate(SCENES)])
def test_scenes(api, session, command, line):
    p = tool(api, "-cmd", command, session=session)
    assert p.returncode == 0, p.stderr
    assert re.search("^" + line, p.stdout.split("Stdout:\n")[1], re.M), p.stdout


def test_one_dash_or_two(api, session):
    for args in (["--session=" + session, "--cmd=echo two"], ["-session=" + session, "-cmd=echo two"],
                 ["--session", session, "--user", "sandbox", "--password", "sandbox", "--cmd", "echo two"]):
        p = tool(api, *args)
        assert p.returncode == 0 and "\ntwo\n" in p.stdout, p.stderr
    for args in ([], ["-session", session, "-nonsense"], ["-session", session, "operand"], ["-session", "../x"],
                 ["-session", session, "-upload", "x"], ["-session", session, "-n", "0"], ["-session", session, "-c", "2"],
                 ["-session", session, "-n", "2", "-upload", "/etc/hosts:x"], ["-session", session, "-W", "-n", "2"],
                 ["-session", session, "-timeout", "0"], ["-session", session, "-timeout", "x"]):
        assert run(TOOL, *args, check=False).returncode == 2, args
    assert run(TOOL, "-api", "ftp://x", "-session", session, check=False).returncode == 2


def in_own_network(tmp_path, script):
    """Runs script in a network of its own, where localhost:8080 is free, beside a server of "make run"."""
    os.symlink(BIN, tmp_path / "bin")
    flags = f"--state-dir {tmp_path}/state --backend process"
    start = f"make -C {ROOT} run ARGS='{flags}'" if BIN == os.path.join(ROOT, "bin") else f"./bin/pico-apiserver {flags}"
    (tmp_path / "test_complete.sh").write_text(SCRIPT)
    os.chmod(tmp_path / "test_complete.sh", 0o755)
    (tmp_path / "script.sh").write_text(script)  # a shell of its own: its wait is not for the server
    (tmp_path / "inside.sh").write_text(f'''
ip link set lo up || exit 99
setsid {start} >api.log 2>&1 &
server=$!
until curl -sf http://localhost:8080/health >/dev/null; do kill -0 $server || exit 98; done
bash script.sh
status=$?
for id in $(curl -s 'http://localhost:8080/v1/sessions?limit=100' | jq -r '.sessions[].session_id'); do
    curl -s -X DELETE http://localhost:8080/v1/sessions/$id >/dev/null
done
kill -INT -- -$server; wait $server || exit 97  # Ctrl-C
exit $status
''')
    return run("unshare", "-n", "bash", "inside.sh", cwd=tmp_path, timeout=600 if FULL else 60, check=False)


def test_complete_flow_script(tmp_path):
    p = in_own_network(tmp_path, "./test_complete.sh")
    assert p.returncode == 0, p.stdout + p.stderr
    assert p.stdout.count("✅") == 5 and "🎉 所有测试完成！" in p.stdout
    assert "🎉 All tests completed successfully!" in p.stdout


def test_concurrent_and_stress_sections(tmp_path):
    rounds = 100 if FULL else 3
    stress = STRESS.replace("{1..100}", f"{{1..{rounds}}}").replace("<id>", "$SESSION_ID")
    p = in_own_network(tmp_path, f"set -e\n{CONCURRENT}\n{stress}")
    assert p.returncode == 0, p.stdout + p.stderr
    assert p.stdout.count("🎉 All tests completed successfully!") == 5 + rounds
    assert p.stdout.count("\nTest ") >= rounds and "❌" not in p.stderr


# Troubleshooting, case by case.

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_case_1_connection_refused():
    p = tool(f"http://localhost:{free_port()}", session="d6bdc5a3-c963-4c0f-be75-bb8083739883")
    assert error_of(p) == "Error: failed to connect to server: connection refused"
    assert "make run" in p.stderr


def test_case_2_session_not_found(api):
    p = tool(api, session="d6bdc5a3-c963-4c0f-be75-bb8083739883")
    assert error_of(p) == "Error: CONNECT failed with status 404: Session not found"
    assert "Received response: 404" in p.stderr


class OneAnswer:
    """A server that says the same to everybody and hangs up."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with s:
                s.sendall(self.answer)
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_case_3_sandbox_not_ready(tmp_path):
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{free_port()}", backend="address")
    p = tool(a, session=a.create()["session_id"])
    assert error_of(p) == "Error: CONNECT failed with status 503: Sandbox not ready"
    a.end()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n\0\0\0\x0c\x0agarbage"],
                         ids=["nothing", "http", "garbage"])
def test_case_4_handshake_failed(tmp_path, answer):
    server = OneAnswer(answer)
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{server.port}", backend="address")
    p = tool(a, session=a.create()["session_id"])
    assert error_of(p).startswith("Error: failed to establish SSH connection: ssh: handshake failed: ")
    a.end()
    server.close()


def test_case_5_unable_to_authenticate(api, session):
    for args in (["-password", "wrong"], ["-user", "nobody-here"], ["-password", ""]):
        p = tool(api, *args, session=session)
        assert error_of(p).startswith("Error: ssh: unable to authenticate"), args
        assert "tunnel established" in p.stderr and "SSH connection established" not in p.stderr


def test_case_6_command_failed(api, session):
    p = tool(api, "-cmd", "echo out; echo err >&2; exit 3", session=session)
    assert error_of(p) == "Error: failed to execute command: exit status 3: err"
    assert "Exit Code: 3\nStdout:\nout\n\nStderr:\nerr\n\n--- End Output ---" in p.stdout
    assert "Command executed successfully" not in p.stderr
    assert error_of(tool(api, "-cmd", "kill -9 $$", session=session)).startswith("Error: failed to execute command: ")


# What is beyond the guide.

class FalseApi(OneAnswer):
    """Passes CONNECT to the real server, and tells another fingerprint for the session."""

    def __init__(self, api):
        self.api = api
        super().__init__(b"")

    def serve(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(s,), daemon=True).start()

    def one(self, s):
        head = s.recv(4096)
        if head.startswith(b"GET"):
            body = json.dumps({"ssh_host_key_fingerprint": "SHA256:" + "A" * 43}).encode()
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            s.close()
            return
        up = socket.create_connection(("127.0.0.1", self.api.port))
        up.sendall(head)

        def copy(a, b):
            try:
                while data := a.recv(65536):
                    b.sendall(data)
                b.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        threading.Thread(target=copy, args=(s, up), daemon=True).start()
        copy(up, s)


def test_another_host_key_is_refused(api, session):
    false = FalseApi(api)
    p = tool(f"http://127.0.0.1:{false.port}", session=session)
    error = error_of(p)
    assert error.startswith("Error: failed to establish SSH connection: ssh: handshake failed: ") and "key" in error
    false.close()


def test_files(api, session, tmp_path):
    blob, back = tmp_path / "it's a blob", tmp_path / "back"
    blob.write_bytes(os.urandom(20_000_001))
    (tmp_path / "empty").write_bytes(b"")
    p = tool(api, "-upload", f"{blob}:/workspace/a 'file'", "-upload", f"{tmp_path}/empty:e", "-download",
             f"/workspace/a 'file':{back}", "-download", f"e:{tmp_path}/e2", session=session)
    assert p.returncode == 0, p.stderr
    assert back.read_bytes() == blob.read_bytes() and (tmp_path / "e2").read_bytes() == b""
    for args in (["-download", f"nope:{tmp_path}/nope"], ["-upload", f"{tmp_path}/nope:x"],
                 ["-upload", f"{blob}:/nowhere/x"], ["-upload", f"{blob}:/workspace"]):
        assert re.match("Error: (up|down)load failed: ", error_of(tool(api, *args, session=session))), args
    assert sorted(os.listdir(tmp_path)) == ["back", "e2", "empty", "it's a blob"]
    assert api.run(session, "ls -A")["stdout"].split("\n") == ["a 'file'", "e", ""]


def test_many_at_once(api, session):
    p = tool(api, "-n", "30", "-c", "10", session=session)
    assert p.returncode == 0, p.stderr
    assert "30 runs, 10 at once: 30 passed, 0 failed" in p.stdout
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in p.stdout.splitlines()
            if re.match(r"(tunnel|ssh|command|total) +\d", line)}
    assert sorted(rows) == ["command", "ssh", "total", "tunnel"]
    for least, mean, p50, p95, p99, most in rows.values():
        assert 0 < least <= p50 <= p95 <= p99 <= most and least <= mean <= most
    p = tool(api, "-n", "4", "-c", "2", "-cmd", 'mkdir /tmp/only-once', session=session)
    assert p.returncode == 1 and "4 runs, 2 at once: 1 passed, 3 failed" in p.stdout
    assert "(3 of 4 runs)" in p.stderr


def test_key_instead_of_password(api, tmp_path):
    key = tmp_path / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    s = api.create(sshPublicKey=(tmp_path / "id.pub").read_text())["session_id"]
    assert tool(api, "-key", key, session=s).returncode == 0
    assert error_of(tool(api, session=s)).startswith("Error: ssh: unable to authenticate")
    assert tool(api, "-key", tmp_path / "none", session=s).returncode == 1
    api.request("DELETE", f"/v1/sessions/{s}")


def test_https_and_tokens(tmp_path):
    pki = Pki(str(tmp_path / "pki"))
    pki.issue("api", "api", san="DNS:localhost,IP:127.0.0.1")
    a = Api(tmp_path, "--jwt-secret", SECRET, "--enable-tls", "--tls-cert", pki.crt("api"), "--tls-key",
            pki.key("api"))
    url, alice = f"https://localhost:{a.port}", token(SECRET, "alice")
    curl = ["curl", "-s", "--cacert", pki.crt("ca"), "-H", f"Authorization: Bearer {alice}"]
    s = json.loads(run(*curl, "-X", "POST", f"{url}/v1/sessions").stdout)["session_id"]
    p = tool(url, "-ca", pki.crt("ca"), "-token", alice, session=s)
    assert p.returncode == 0, p.stderr
    assert tool(url, "-insecure", "-token", alice, session=s).returncode == 0
    p = tool(url, "-token", alice, session=s)
    assert "certificate" in error_of(p) and "-ca FILE" in p.stderr
    p = tool(url.replace("https", "http"), "-token", alice, session=s)
    assert error_of(p).startswith("Error: CONNECT failed: ") and "https" in p.stderr
    ca = ["-ca", pki.crt("ca")]
    assert error_of(tool(url, *ca, session=s)).startswith("Error: CONNECT failed with status 401")
    assert "status 404" in error_of(tool(url, *ca, "-token", token(SECRET, "mallory"), session=s))
    run(*curl, "-X", "DELETE", f"{url}/v1/sessions/{s}")
    a.stop()
    assert a.proc.returncode == 0 and a.leftovers() == []


@pytest.fixture
def dropbear(tmp_path):
    """The port of a dropbear that lets user sandbox in by password or by key, and that key."""
    if not os.path.exists("/usr/sbin/dropbear"):
        pytest.skip("no dropbear")
    home, key = pathlib.Path(tempfile.mkdtemp(prefix="dropbear-")), tmp_path / "id"
    (home / ".ssh").mkdir()
    run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key)
    shutil.copy(tmp_path / "id.pub", home / ".ssh" / "authorized_keys")
    hashed = run("openssl", "passwd", "-6", "sandbox").stdout.strip()
    (tmp_path / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nsandbox:x:12345:12345::{home}:/bin/sh\n")
    (tmp_path / "shadow").write_text(f"root:*:19000::::::\nsandbox:{hashed}:19000:0:99999:7:::\n")
    run("chown", "-R", "12345:12345", home)
    run("dropbearkey", "-t", "ed25519", "-f", tmp_path / "host")
    port = free_port()
    p = subprocess.Popen(["unshare", "-m", "sh", "-c", f"""
mount --bind {tmp_path}/passwd /etc/passwd && mount --bind {tmp_path}/shadow /etc/shadow &&
exec dropbear -F -E -r {tmp_path}/host -p 127.0.0.1:{port} -P {tmp_path}/pid"""], stderr=subprocess.DEVNULL)

    def listens():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for(listens, 10, "dropbear")
    yield port, key
    p.terminate()
    p.wait()
    shutil.rmtree(home)


def test_dropbear(dropbear, tmp_path):
    port, key = dropbear
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{port}", backend="address")
    s = a.create()
    sid = s["session_id"]
    assert s["ssh_host_key_fingerprint"] is None
    blob, back = tmp_path / "blob", tmp_path / "back"
    blob.write_bytes(os.urandom(3_000_000))
    p = tool(a, "-upload", f"{blob}:there", "-download", f"there:{back}", "-cmd", "cat /etc/passwd | wc -l", session=sid)
    assert p.returncode == 0, p.stderr
    assert back.read_bytes() == blob.read_bytes() and "Stdout:\n2\n" in p.stdout
    assert "does not tell the sandbox's host key; ssh-ed25519 SHA256:" in p.stderr
    assert tool(a, "-password", "", "-key", key, session=sid).returncode == 0
    assert error_of(tool(a, "-password", "wrong", session=sid)).startswith("Error: ssh: unable to authenticate")
    assert error_of(tool(a, "-cmd", "exit 3", session=sid)) == "Error: failed to execute command: exit status 3"
    assert "8 runs, 4 at once: 8 passed" in tool(a, "-n", "8", "-c", "4", session=sid).stdout
    # ~/.ssh/known_hosts is asked then
    home = tmp_path / "laptop"
    (home / ".ssh").mkdir(parents=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    other = (tmp_path / "other.pub").read_text().split()
    (home / ".ssh" / "known_hosts").write_text(f"{sid} {other[0]} {other[1]}\n")
    p = tool(a, session=sid, env={**os.environ, "HOME": str(home)})
    assert error_of(p).startswith("Error: failed to establish SSH connection: ssh: handshake failed: ")
    a.end()


def test_paused_sandbox_is_resumed(api, session):
    assert api.request("POST", f"/v1/sessions/{session}/pause").json["status"] == "paused"
    assert tool(api, session=session).returncode == 0


def test_gives_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        p = tool(f"http://127.0.0.1:{silent.getsockname()[1]}", "-timeout", "300ms", session="x", timeout=20)
        assert error_of(p).startswith("Error: CONNECT failed: no answer in time")


def test_connection_lost_in_the_middle(api):
    s = api.create()["session_id"]
    p = subprocess.Popen([TOOL, "-api", f"http://localhost:{api.port}", "-session", s, "-cmd",
                          "touch started; sleep 1000"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    wait_for(lambda: "started" in api.run(s, "ls")["stdout"], 20, "the command runs")
    api.request("DELETE", f"/v1/sessions/{s}")
    _, err = p.communicate(timeout=30)
    assert p.returncode == 1 and "Error: failed to execute command" in err, err


# ssh and its kin, through -W.

def kin(api, session, tmp_path):
    options = ["-F", "none", "-o", f"ProxyCommand={TOOL} -W -api http://localhost:{api.port} -session %h", "-o",
               "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={tmp_path}/known_hosts", "-o",
               "LogLevel=ERROR"]
    return options, {"env": api.ssh_env(), "timeout": 60}


def test_ssh_scp_sftp_rsync(api, session, tmp_path):
    options, kw = kin(api, session, tmp_path)
    blob, folder = tmp_path / "blob", tmp_path / "folder"
    blob.write_bytes(os.urandom(8_000_000))
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("x")
    at = f"sandbox@{session}"
    assert run("ssh", *options, at, "cat; exit 0", input="piped", **kw).stdout == "piped"
    assert run("ssh", *options, at, "exit 7", check=False, **kw).returncode == 7
    run("scp", *options, blob, f"{at}:/workspace/up", **kw)
    run("scp", *options, f"{at}:/workspace/up", tmp_path / "down", **kw)
    assert (tmp_path / "down").read_bytes() == blob.read_bytes()
    batch = f"put {blob} by-sftp\nget by-sftp {tmp_path}/got\n"
    run("sftp", *options, "-o", "BatchMode=no", "-b", "-", at, input=batch, **kw)
    assert (tmp_path / "got").read_bytes() == blob.read_bytes()
    shell = "ssh " + " ".join(f"'{o}'" for o in options)
    run("rsync", "-a", "-e", shell, f"{folder}/", f"{at}:/workspace/folder/", **kw)
    assert api.run(session, "cat folder/sub/x")["stdout"] == "x"


def test_raw_tunnel_ends_with_the_sandboxs_side(tmp_path):
    """However long ssh holds its own open."""
    server = OneAnswer(b"SSH-2.0-x\r\n")
    a = Api(tmp_path, "--sandbox-address", f"127.0.0.1:{server.port}", backend="address")
    p = subprocess.Popen([TOOL, "-W", "-api", f"http://localhost:{a.port}", "-session", a.create()["session_id"]],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    text, more = b"", b" "
    while more:
        assert select.select([p.stdout], [], [], 20)[0], text
        more = os.read(p.stdout.fileno(), 100)
        text += more
    assert text == b"SSH-2.0-x\r\n" and p.poll() is None
    p.stdin.close()
    assert p.wait(10) == 0
    a.end()
    server.close()


def test_raw_tunnel_says_why_not(api):
    p = tool(api, "-W", session="nope")
    assert p.stdout == "" and error_of(p) == "Error: CONNECT failed with status 404: Session not found"


@pytest.mark.skipif(BIN != os.path.join(ROOT, "bin"), reason="make's targets are for bin/")
def test_make_targets(api, session):
    args = f"ARGS=-api http://localhost:{api.port}"
    assert "🎉" in run("make", "-C", ROOT, "test-tunnel", f"SESSION_ID={session}", args, timeout=300).stdout
    assert "🎉" in run("make", "-C", ROOT, "test-tunnel-build", f"SESSION_ID={session}", args, timeout=300).stdout
    assert run("make", "-C", ROOT, "test-tunnel", check=False).returncode != 0
