"""SandboxClient: the sessions of one server."""
import urllib.parse

from .errors import ProtocolError
from .session import Session
from .transport import Transport

PAGE = 100


class SandboxClient:
    """url: of the pico-apiserver. token: bearer token, if it wants one. timeout: seconds that a connection may
    be silent (None: for ever). cafile, insecure: whom to believe over https; else the system's CAs.
    May be used by several threads."""

    def __init__(self, url="http://localhost:8080", token="", *, timeout=90, cafile=None, insecure=False):
        self._http = Transport(url, token, timeout, cafile, insecure)
        self.url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Sessions live on: they end with their time, or by delete()."""

    def health(self):
        """{"status": "ok", ...}; needs no token."""
        return self._http.call("GET", "/health")

    def create_session(self, ttl=None, *, image=None, ssh_public_key=None, metadata=None, idle_timeout=None,
                       idempotency_key=None):
        """A new session whose sandbox runs. ttl, idle_timeout: seconds. With an idempotency_key the same call
        can be made again after a failure without making a second session. As a context manager the session is
        deleted at the end."""
        body = {"ttl": ttl, "image": image, "sshPublicKey": ssh_public_key, "metadata": metadata,
                "idleTimeout": idle_timeout}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        told = self._http.call("POST", "/v1/sessions", {k: v for k, v in body.items() if v is not None}, headers)
        return Session(self._http, told)

    def get_session(self, session_id):
        return Session(self._http, self._http.call("GET", f"/v1/sessions/{quote(session_id)}"))

    get = get_session

    def list_sessions(self, limit=None, offset=0):
        """A list of all sessions of this owner, or of limit of them from offset on, in order of creation."""
        found = []
        while limit is None or len(found) < limit:
            n = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self._http.call("GET", f"/v1/sessions?limit={n}&offset={offset + len(found)}")
            try:
                page = page["sessions"]
            except (KeyError, TypeError) as e:
                raise ProtocolError(f"that is no list of sessions: {page!r}") from e
            found += [Session(self._http, told) for told in page]
            if len(page) < n:
                break
        return found

    list = list_sessions

    def delete_session(self, session_id):
        self._http.call("DELETE", f"/v1/sessions/{quote(session_id)}")

    delete = delete_session


def quote(session_id):
    return urllib.parse.quote(str(session_id), safe="")
