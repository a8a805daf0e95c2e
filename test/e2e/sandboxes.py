"""A real pico-apiserver, and what the tests of it share."""
import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time

from lab import BIN, wait_for

# What docs/sandboxes.md gives people as a ProxyCommand.
PROXY = r'''
import os,socket,sys,threading
h,p,i,t=sys.argv[1:5]
s=socket.create_connection((h,int(p)))
a=f"Authorization: Bearer {t}\r\n" if t else ""
s.sendall(f"CONNECT /v1/sessions/{i}/tunnel HTTP/1.1\r\nHost: {h}:{p}\r\n{a}\r\n".encode())
b=b""
while b"\r\n\r\n" not in b:
    d=s.recv(4096)
    if not d: sys.exit(b.decode())
    b+=d
e,r=b.split(b"\r\n\r\n",1)
if b" 200 " not in e: sys.exit((b+s.recv(4096)).decode())
os.write(1,r)
def up():
    while d:=os.read(0,65536): s.sendall(d)
    s.shutdown(1)
threading.Thread(target=up,daemon=True).start()
while d:=s.recv(65536): os.write(1,d)
'''


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(secret, claims, header=None):
    h = b64(json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode())
    c = b64(json.dumps(claims).encode())
    mac = hmac.new(secret.encode(), f"{h}.{c}".encode(), hashlib.sha256).digest()
    return f"{h}.{c}.{b64(mac)}"


def token(secret, sub, **claims):
    return jwt(secret, {"sub": sub, "exp": int(time.time()) + 600, **claims})


def self_signed(path):
    """A certificate for localhost that is its own CA, in path.crt and path.key; what ssl needs to believe it."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", f"/CN={os.path.basename(path)}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
                    f"{path}.key", "-out", f"{path}.crt"], check=True, capture_output=True)
    return ssl.create_default_context(cafile=f"{path}.crt")


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Api:
    def __init__(self, tmp, *flags, backend="process", state=None, env=None):
        self.tmp = str(tmp)
        self.state = state or os.path.join(self.tmp, "state")
        self.flags, self.backend, self.env = flags, backend, env
        self.log = os.path.join(self.tmp, f"api-{os.urandom(3).hex()}.log")
        self.port = None
        self.proc = None
        self.tls = None  # a context: requests go by https
        self.start()

    def start(self):
        argv = [os.path.join(BIN, "pico-apiserver"), "--listen", f"127.0.0.1:{self.port or 0}", "--state-dir",
                self.state, "--backend", self.backend, "--min-ttl", "1", *self.flags]
        self.out = open(self.log, "ab")
        offset = os.path.getsize(self.log)
        self.proc = subprocess.Popen(argv, stdout=self.out, stderr=subprocess.STDOUT, env=self.env)

        def port():
            assert self.proc.poll() is None, self.text()
            for line in self.text()[offset:].splitlines():
                if " listening addr=" in line:
                    return int(line.split("addr=")[1].split()[0].rsplit(":", 1)[1])
        self.port = wait_for(port, 20, "the server listens")

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def kill(self):
        self.proc.send_signal(signal.SIGKILL)
        self.proc.wait()

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            self.proc.wait(30)
        self.out.close()

    def end(self):
        """Stops it, all of its sandboxes removed, and looks that nothing is left."""
        if self.proc.poll() is not None:
            self.start()
        for s in [*self.sessions()]:
            self.request("DELETE", f"/v1/sessions/{s['session_id']}")
        self.stop()
        assert self.proc.returncode == 0, self.text()
        for word in ("AddressSanitizer", "runtime error:", "LeakSanitizer"):
            assert word not in self.text(), self.text()
        assert self.leftovers() == []

    def leftovers(self):
        found = [f"process {p}" for p in self.inits()]
        with open("/proc/self/mounts") as f:
            found += [line for line in f if self.state in line]
        boxes = os.path.join(self.state, "boxes")
        return found + (os.listdir(boxes) if os.path.isdir(boxes) else [])

    def inits(self):
        """pids of the sandboxes' first processes, outside."""
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and self._is_init(pid)]

    def _is_init(self, pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            return b"sandbox-init" in argv and any(a.startswith(self.state.encode()) for a in argv)
        except OSError:
            return False

    def request(self, method, path, body=None, token="", headers=None, timeout=60):
        c = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls) if self.tls else \
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        h = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            h.setdefault("Content-Type", "application/json")
        if token:
            h["Authorization"] = f"Bearer {token}"
        try:
            try:
                c.request(method, path, body, h)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it did not want the whole body, and has said why
            r = c.getresponse()
            return Reply(r.status, r.headers, r.read())
        finally:
            c.close()

    def create(self, token="", **body):
        r = self.request("POST", "/v1/sessions", body or None, token)
        assert r.status == 201, r.body
        assert r.json["status"] == "running"
        return r.json

    def sessions(self, token=""):
        return self.request("GET", "/v1/sessions?limit=100", token=token).json["sessions"]

    def run(self, session, command, **more):
        r = self.request("POST", f"/v1/sessions/{session}/commands", {"command": command, **more})
        assert r.status == 200, r.body
        return r.json

    def connect(self, session, token="", path="/v1/sessions/{}/tunnel", first=b"", header="Authorization"):
        """A socket after the reply to CONNECT, and the bytes that came behind it; or the reply."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        if self.tls:
            s = self.tls.wrap_socket(s, server_hostname="localhost")
        auth = f"{header}: Bearer {token}\r\n" if token else ""
        s.sendall(f"CONNECT {path.format(session)} HTTP/1.1\r\nHost: localhost\r\n{auth}\r\n".encode() + first)
        data = b""
        while b"\r\n\r\n" not in data:
            piece = s.recv(4096)
            assert piece, data
            data += piece
        head, rest = data.split(b"\r\n\r\n", 1)
        status = int(head.split()[1])
        if status == 200:
            assert head.startswith(b"HTTP/1.1 200 Connection Established\r\n")
            assert b"content-length" not in head.lower() and b"transfer-encoding" not in head.lower()
            return s, rest
        want = int([line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")][0])
        while len(rest) < want:
            rest += s.recv(4096)
        s.close()
        return Reply(status, None, rest), None

    def _script(self, name, text):
        """Made once, whole: threads of a test run it at the same time."""
        path = os.path.join(self.tmp, name)
        if not os.path.exists(path):
            part = f"{path}.{os.urandom(4).hex()}"
            with open(part, "w") as f:
                f.write(text)
            os.chmod(part, 0o700)
            os.replace(part, path)
        return path

    def ssh_options(self, session, token=""):
        proxy = self._script("proxy.py", PROXY)
        known = os.path.join(self.tmp, "known_hosts")
        return ["-F", "none", "-o", f"ProxyCommand={sys.executable} {proxy} 127.0.0.1 {self.port} {session} '{token}'",
                "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}-{session}",
                "-o", "LogLevel=ERROR"]

    def ssh_env(self, password="sandbox"):
        ask = self._script(f"askpass-{password}", f"#!/bin/sh\necho {password}\n")
        return {**os.environ, "SSH_ASKPASS": ask, "SSH_ASKPASS_REQUIRE": "force"}

    def ssh(self, session, command, *options, user="sandbox", password="sandbox", token="", **kw):
        return subprocess.run(["ssh", *self.ssh_options(session, token), *options, f"{user}@sandbox", command],
                              env=self.ssh_env(password), capture_output=True, timeout=60,
                              stdin=kw.pop("stdin", subprocess.DEVNULL), **kw)


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Docker's API as far as a create goes, which is answered when go is set. Containers never run."""
    daemon_threads = True

    def __init__(self, path):
        self.made, self.asked, self.go, self.lock = [], threading.Event(), threading.Event(), threading.Lock()
        super().__init__(str(path), FakeEngineHandler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.go.set()
        self.shutdown()
        self.server_close()


class FakeEngineHandler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, told=None):
        body = json.dumps(told).encode() if told is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, [c for c in self.server.made if "session-id%3D" not in self.path or c["Labels"]["session-id"] in self.path])

    def do_POST(self):
        spec = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        self.server.asked.set()
        self.server.go.wait(60)
        if "/create" in self.path:
            c = {"Id": os.urandom(32).hex(), "State": "created", "Labels": spec["Labels"]}
            with self.server.lock:
                self.server.made.append(c)
            self.reply(201, {"Id": c["Id"]})
        else:
            self.reply(500, {"message": "this engine starts nothing"})

    def do_DELETE(self):
        with self.server.lock:  # two at the same time would each bring back what the other takes
            self.server.made[:] = [c for c in self.server.made if c["Id"] not in self.path]
        self.reply(204)

    def address_string(self):
        return "engine"

    def log_message(self, *args):
        pass


def banner(api, session):
    """The first line of the session's sshd, through a tunnel."""
    sock, rest = api.connect(session)
    try:
        while b"\n" not in rest:
            piece = sock.recv(100)
            assert piece, rest
            rest += piece
        return rest
    finally:
        sock.close()
