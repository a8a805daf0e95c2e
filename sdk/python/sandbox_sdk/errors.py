"""What can go wrong. SandboxError is the base of all; ApiError of all that the server said."""
import json


class SandboxError(Exception):
    pass


class ConnectError(SandboxError, ConnectionError):
    """The server was not reached, did not answer in time, or the connection broke."""


class ProtocolError(SandboxError):
    """What answered is no pico-apiserver, or the answer was cut off."""


class ApiError(SandboxError):
    """status: of HTTP; code: stable, like "SESSION_NOT_FOUND"; retry_after: seconds or None."""

    def __init__(self, status, code, message, request_id=None, retry_after=None):
        super().__init__(f"{message} (status {status}, {code})")
        self.status, self.code, self.message = status, code, message
        self.request_id, self.retry_after = request_id, retry_after


class InvalidRequestError(ApiError):
    """400, 405, 413, 415: the request is at fault."""


class AuthenticationError(ApiError):
    """401: no token, or not a valid one."""


class PermissionDeniedError(ApiError):
    """403: for instance a path out of the workspace."""


class NotFoundError(ApiError):
    """404: no such session (of this owner), or no such file."""


class ConflictError(ApiError):
    """409: not in this state."""


class SessionExpiredError(ApiError):
    """410: the session is over."""


class RateLimitError(ApiError):
    """429: too many sessions; see retry_after."""


class ServerError(ApiError):
    """5xx."""


class NotReadyError(ServerError):
    """503: the sandbox is not ready, or the server is busy; see retry_after."""


class CommandError(SandboxError):
    """A command that was run with check=True did not exit with 0; result has its output."""

    def __init__(self, result):
        how = "killed after its timeout" if result.timed_out else f"exit code {result.exit_code}"
        said = result.stderr.strip()[-500:]
        super().__init__(f"{how}: {said}" if said else how)
        self.result = result


class CommandTimeout(CommandError):
    """It ran longer than its timeout and was killed (check=True)."""


_BY_STATUS = {400: InvalidRequestError, 401: AuthenticationError, 403: PermissionDeniedError, 404: NotFoundError,
              405: InvalidRequestError, 409: ConflictError, 410: SessionExpiredError, 413: InvalidRequestError,
              415: InvalidRequestError, 429: RateLimitError, 503: NotReadyError}


def from_reply(status, reason, headers, body):
    """The error that a reply means; headers needs only get()."""
    try:
        told = json.loads(body)
        if not isinstance(told, dict):
            told = {}
    except ValueError:
        told = {}
    retry = headers.get("Retry-After") or ""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    return kind(status, told.get("error", f"HTTP_{status}"), told.get("message", reason),
                told.get("request_id") or headers.get("X-Request-Id"), int(retry) if retry.isdigit() else None)
