"""HTTP to one server: a connection for each request, so that threads need not care."""
import http.client
import io
import json
import socket
import ssl
import urllib.parse

from . import errors
from .tls_tunnel import tls_socket

HEAD_MAX = 64 * 1024


class Transport:
    def __init__(self, url, token, timeout, cafile, insecure):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"the URL must be like http://localhost:8080, not {url!r}")
        self.host, self.base = parts.hostname, parts.path.rstrip("/")
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.token, self.timeout = token, timeout
        self.tls = None
        if parts.scheme == "https":
            self.tls = ssl.create_default_context(cafile=cafile)
            if insecure:
                self.tls.check_hostname = False
                self.tls.verify_mode = ssl.CERT_NONE

    def _headers(self):
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _connection(self, timeout):
        args = {"timeout": timeout, "blocksize": 256 * 1024}
        if self.tls:
            return http.client.HTTPSConnection(self.host, self.port, context=self.tls, **args)
        return http.client.HTTPConnection(self.host, self.port, **args)

    def open(self, method, path, body=None, headers=None, wait=0):
        """A response with status 2xx whose body is still to be read; close() it. wait: seconds that the
        server may take longer than usual."""
        timeout = None if self.timeout is None else self.timeout + wait
        connection = self._connection(timeout)
        chunked = bool(headers and headers.get("Transfer-Encoding") == "chunked")
        try:
            try:
                connection.request(method, self.base + path, body, {**self._headers(), **(headers or {})},
                                   encode_chunked=chunked)
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # It did not want the whole body, and has perhaps said why: see its reply.
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                raise errors.from_reply(response.status, response.reason, response.headers, response.read())
        except OSError as e:
            connection.close()
            raise errors.ConnectError(f"{method} {self.host}:{self.port}{path}: {e}") from e
        except http.client.HTTPException as e:
            connection.close()
            raise errors.ProtocolError(f"{method} {self.host}:{self.port}{path}: {e!r}") from e
        except BaseException:
            connection.close()
            raise
        return Response(connection, response)

    def call(self, method, path, body=None, headers=None, wait=0):
        """JSON both ways."""
        headers = dict(headers or {})
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        with self.open(method, path, body, headers, wait) as response:
            return response.json()

    def tunnel(self, path, timeout):
        """A connected socket behind CONNECT, with nothing read ahead."""
        try:
            sock = socket.create_connection((self.host, self.port), timeout)
        except OSError as e:
            raise errors.ConnectError(f"CONNECT {self.host}:{self.port}: {e}") from e
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = tls_socket(sock, self.tls, self.host)
                sock.settimeout(timeout)
            host = f"[{self.host}]" if ":" in self.host else self.host
            lines = [f"CONNECT {self.base}{path} HTTP/1.1", f"Host: {host}:{self.port}"]
            lines += [f"{name}: {value}" for name, value in self._headers().items()]
            sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            head = bytearray()
            while not head.endswith(b"\r\n\r\n"):
                byte = sock.recv(1)  # one at a time: the sandbox may speak right behind the head
                if not byte or len(head) > HEAD_MAX:
                    raise errors.ProtocolError(f"CONNECT {self.host}:{self.port}: no HTTP reply: {bytes(head[:100])!r}")
                head += byte
            self._look_at(sock, bytes(head))
            sock.settimeout(None)
            return sock
        except OSError as e:
            sock.close()
            raise errors.ConnectError(f"CONNECT {self.host}:{self.port}: {e}") from e
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def _look_at(sock, head):
        line, _, fields = head.partition(b"\r\n")
        words = line.decode("latin-1").split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise errors.ProtocolError(f"CONNECT: no HTTP reply: {line[:100]!r}")
        status = int(words[1])
        if 200 <= status < 300:
            return
        headers = http.client.parse_headers(io.BytesIO(fields))
        body, length = b"", headers.get("Content-Length") or "0"
        want = min(int(length), HEAD_MAX) if length.isdigit() else 0
        while len(body) < want and (piece := sock.recv(want - len(body))):
            body += piece
        raise errors.from_reply(status, words[2] if len(words) > 2 else "", headers, body)


class Response:
    """A body that is read while it comes. What breaks is told as ConnectError or ProtocolError."""

    def __init__(self, connection, response):
        self.connection, self.response, self.headers = connection, response, response.headers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.response.close()
        self.connection.close()

    def _guard(self, read, *args):
        try:
            return read(*args)
        except http.client.HTTPException as e:
            raise errors.ProtocolError(f"the reply was cut off: {e!r}") from e
        except OSError as e:
            raise errors.ConnectError(f"the connection broke: {e}") from e

    def read(self, n=None):
        return self._guard(self.response.read, n)

    def lines(self):
        while line := self._guard(self.response.readline):
            yield line

    def json(self):
        body = self.read()
        try:
            return json.loads(body)
        except ValueError as e:
            raise errors.ProtocolError(f"the reply is no JSON: {body[:100]!r}") from e
