"""Session: one sandbox, its commands, files and the tunnel to its SSH server."""
import dataclasses
import datetime
import io
import json
import os
import tempfile
import time
import urllib.parse

from . import errors

COMMAND_WAIT = 60  # seconds that a command may run if nothing is said


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended. exit_code: 128+N if signal N killed it, 124 when it was timed_out. truncated: a part
    of the output over 1 MiB was dropped; to get all of it, give run() on_stdout."""
    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    timed_out: bool = False
    truncated: bool = False

    def check(self):
        """Itself, or CommandTimeout or CommandError."""
        if self.timed_out:
            raise errors.CommandTimeout(self)
        if self.exit_code != 0:
            raise errors.CommandError(self)
        return self


class Session:
    """session_id, status, sandbox_name, image, metadata, ssh_username, host_key_fingerprint ("SHA256:..."), and
    the times created_at, expires_at, last_activity_at (datetime, UTC), as of the last call that told them."""

    def __init__(self, http, told):
        self._http = http
        self._take(told)

    def _take(self, told):
        try:
            self.session_id = told["session_id"]
            self.status = told["status"]
            self.created_at, self.expires_at, self.last_activity_at = (
                _time(told.get(name)) for name in ("created_at", "expires_at", "last_activity_at"))
        except (KeyError, TypeError, ValueError) as e:
            raise errors.ProtocolError(f"that is no session: {told!r}") from e
        self.sandbox_name, self.image = told.get("sandbox_name"), told.get("image")
        self.metadata = told.get("metadata") or {}
        self.ssh_username = told.get("ssh_username") or "sandbox"
        self.host_key_fingerprint = told.get("ssh_host_key_fingerprint")
        return self

    def __repr__(self):
        return f"<Session {self.session_id} {self.status}>"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.delete()
        except (errors.NotFoundError, errors.SessionExpiredError):
            pass

    def _path(self, after=""):
        return f"/v1/sessions/{urllib.parse.quote(self.session_id, safe='')}{after}"

    # Life.

    def refresh(self):
        """Asks the server how the session is now. Returns itself, as the next two do."""
        return self._take(self._http.call("GET", self._path()))

    def pause(self):
        """Stops all that runs, where it is. connect() and run() resume it by themselves."""
        return self._take(self._http.call("POST", self._path("/pause")))

    def resume(self):
        return self._take(self._http.call("POST", self._path("/resume")))

    def wait_ready(self, timeout=60):
        """Until it runs: itself, or NotReadyError."""
        end = time.monotonic() + timeout
        while self.refresh().status != "running":
            if time.monotonic() > end or self.status == "failed":
                raise errors.NotReadyError(503, "SANDBOX_NOT_READY", f"the sandbox is {self.status}")
            time.sleep(0.1)
        return self

    def delete(self):
        """The sandbox and all that is in it are gone when this returns."""
        self._http.call("DELETE", self._path())
        self.status = "deleted"

    # Commands.

    def run(self, command, *, timeout=None, env=None, cwd=None, stdin=None, check=False, on_stdout=None,
            on_stderr=None):
        """Runs a line of bash: a Result. timeout: seconds (60 if not said), then it is killed with all of its
        children. stdin: str. check: raise CommandError unless it exits with 0. on_stdout, on_stderr: called with
        pieces of text as they come; stdout and stderr of the Result are empty then."""
        return self._run("/commands", {"command": command}, timeout, env, cwd, stdin, check, on_stdout, on_stderr)

    def run_code(self, code, language="python", *, timeout=None, env=None, cwd=None, stdin=None, check=False,
                 on_stdout=None, on_stderr=None):
        """The same for a program in python, javascript or bash."""
        return self._run("/code", {"code": code, "language": language}, timeout, env, cwd, stdin, check, on_stdout,
                         on_stderr)

    def _run(self, path, body, timeout, env, cwd, stdin, check, on_stdout, on_stderr):
        more = {"timeout": timeout, "env": env, "cwd": cwd, "stdin": stdin}
        body.update({k: v for k, v in more.items() if v is not None})
        wait = COMMAND_WAIT if timeout is None else timeout
        if on_stdout or on_stderr:
            told = self._stream(path, {**body, "stream": True}, wait, on_stdout, on_stderr)
        else:
            told = self._http.call("POST", self._path(path), body, wait=wait)
        try:
            result = Result(told.get("stdout", ""), told.get("stderr", ""), told["exit_code"], told["duration_ms"],
                            told.get("timed_out", False), told.get("truncated", False))
        except (KeyError, TypeError, AttributeError) as e:
            raise errors.ProtocolError(f"that is no result: {told!r}") from e
        return result.check() if check else result

    def _stream(self, path, body, wait, on_stdout, on_stderr):
        take = {"stdout": on_stdout, "stderr": on_stderr}
        headers = {"Content-Type": "application/json"}
        with self._http.open("POST", self._path(path), json.dumps(body).encode(), headers, wait) as response:
            for line in response.lines():
                try:
                    told = json.loads(line)
                    kind, data = told["type"], told.get("data", "")
                except (ValueError, KeyError, TypeError) as e:
                    raise errors.ProtocolError(f"that is no line of output: {line[:100]!r}") from e
                if kind == "exit":
                    return told
                if take.get(kind):
                    take[kind](data)
        raise errors.ProtocolError("the output was cut off")

    # Files.

    def upload(self, source, path, mode=None):
        """source: the path of a local file, bytes, or a file opened for binary reading. path: of the file in
        the sandbox, below /workspace or relative to it; folders are made. mode: permissions, like 0o755.
        Returns its size."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            return self._put(path, mode, bytes(source), {})
        if hasattr(source, "read"):
            return self._put(path, mode, iter(lambda: source.read(256 * 1024), b""), {"Transfer-Encoding": "chunked"})
        with open(source, "rb") as f:
            return self._put(path, mode, f, {"Content-Length": str(os.fstat(f.fileno()).st_size)})

    def _put(self, path, mode, body, headers):
        target = self._files(path) + (f"&mode={mode:o}" if mode is not None else "")
        headers = {"Content-Type": "application/octet-stream", **headers}
        with self._http.open("PUT", target, body, headers) as response:
            return response.json()["size"]

    def download(self, path, to=None):
        """The file's bytes; or, with to (a path, or a file opened for binary writing), their number. A local
        file is there only once it is whole."""
        with self._http.open("GET", self._files(path)) as response:
            if to is None:
                data = io.BytesIO()
                _copy(response, data)
                return data.getvalue()
            if hasattr(to, "write"):
                return _copy(response, to)
            folder, name = os.path.split(os.path.abspath(to))
            fd, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            try:
                with open(fd, "wb") as f:
                    n = _copy(response, f)
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(part, 0o666 & ~mask)
                os.replace(part, to)
                return n
            except BaseException:
                os.unlink(part)
                raise

    def _files(self, path):
        return self._path("/files?path=" + urllib.parse.quote(os.fspath(path), safe="/"))

    # The tunnel.

    def connect(self, timeout=90):
        """A connected socket to the sandbox's SSH server, through HTTP CONNECT; the caller closes it. timeout:
        seconds until it is open. With paramiko:

            with session.connect() as sock, paramiko.Transport(sock) as t:
                t.connect(username=session.ssh_username, password="sandbox")
        """
        return self._http.tunnel(self._path("/tunnel"), timeout)


def _time(text):
    if text is None:
        return None
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def _copy(response, f):
    n, size = 0, response.headers.get("X-File-Size")
    while piece := response.read(256 * 1024):
        f.write(piece)
        n += len(piece)
    if size is not None and size.isdigit() and int(size) != n:
        raise errors.ProtocolError(f"the file was cut off at {n} of {size} bytes")
    return n
