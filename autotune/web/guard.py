"""Who may ask, and what a browser may do with the answer.

Names, reasons and figures come from users' files, so a page may load scripts and styles of this site alone,
and nothing at all from elsewhere. A page of another site must not read ours through a name that it has
made to resolve to this machine (DNS rebinding), so the header `Host` must name what we listen on.
"""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "autotune_token"
METHODS = ("GET", "HEAD")
LONGEST_QUERY = 4096

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # plotly places its labels with style attributes and one style element of its own
        "style-src-elem 'self' 'unsafe-inline'",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets only those requests through that may be answered, and adds the headers to every answer.

    Args:
        app: that answers.
        host: address that is listened on.
        token: that must be shown; empty for none.
        names: further names that the header `Host` may have.
    """

    def __init__(self, app: ASGIApp, host: str, token: str = "", names: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token
        self._any_address = not is_loopback(host)
        self._names = {"localhost", "127.0.0.1", "::1", host, *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if scope["method"] not in METHODS:
            allowed = {"allow": ", ".join(METHODS)}
            return PlainTextResponse("this site is read-only\n", 405, headers=allowed)
        if not self._is_ours(headers.get("host", "")):
            return PlainTextResponse("the header Host does not name this site\n", 421)
        if len(scope["query_string"]) > LONGEST_QUERY:
            return PlainTextResponse("the address is too long\n", 414)
        return self._unless_known(scope, headers) if self._token else None

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        name = name.strip("[]").lower()
        if name in self._names:
            return True
        # A page of another site has a name. Whoever writes an address means this machine, and shows a token.
        return self._any_address and _is_address(name)

    def _unless_known(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        given = parse_qs(scope["query_string"].decode("latin-1"))
        if self._is_token(given.get("token", [""])[0]):
            del given["token"]
            path = "/" + scope["path"].lstrip("/")
            query = urlencode(given, doseq=True)
            response = RedirectResponse(f"{path}?{query}" if query else path, 303)
            # The address is kept in the browser's history, the cookie until it is closed.
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
            return response
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer):
            return None
        if self._is_token(_cookie(headers.get("cookie", ""))):
            return None
        told = "open the address with its token, as 'autotune web' printed it, or send it as a bearer token\n"
        return PlainTextResponse(told, 401, headers={"www-authenticate": "Bearer"})

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
