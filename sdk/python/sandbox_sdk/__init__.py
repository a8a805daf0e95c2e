"""Sandboxes of a pico-apiserver. Python's standard library only.

    from sandbox_sdk import SandboxClient

    client = SandboxClient("http://localhost:8080", token="")
    with client.create_session(ttl=3600) as session:
        print(session.run("uname -a").stdout)

README.md has more examples.
"""
from .client import SandboxClient
from .errors import (ApiError, AuthenticationError, CommandError, CommandTimeout, ConflictError, ConnectError,
                     InvalidRequestError, NotFoundError, NotReadyError, PermissionDeniedError, ProtocolError,
                     RateLimitError, SandboxError, ServerError, SessionExpiredError)
from .session import Result, Session

__all__ = ["SandboxClient", "Session", "Result", "SandboxError", "ApiError", "AuthenticationError", "CommandError",
           "CommandTimeout", "ConflictError", "ConnectError", "InvalidRequestError", "NotFoundError",
           "NotReadyError", "PermissionDeniedError", "ProtocolError", "RateLimitError", "ServerError",
           "SessionExpiredError"]
__version__ = "0.1.0"
