"""What is refused before any work, and what every response says and is counted by."""

import hmac
import json
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterable, MutableMapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from delf_jax.report import html

COOKIE = "delf_jax_token"
# Addresses whose requests are counted at a time.
_ADDRESSES = 10_000
# Headers of all responses. Style attributes carry the widths of bars.
_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """The server behind it sees only requests that may be answered."""

    def __init__(
        self,
        app: Any,
        *,
        token: str,
        hosts: Iterable[str],
        rate: int,
        most_bytes: int,
        registry: CollectorRegistry,
    ):
        """How requests are checked.

        Args:
          token: that each must bring, in a header or cookie; "": none.
          hosts: names that the server may be called by; none: any. Another name means
            that a page from elsewhere has pointed its own at this machine.
          rate: requests that compute, of one address in a minute; 0: any number.
          most_bytes: of a body.
          registry: where they are counted.
        """
        self._app, self._token, self._hosts = app, token, {*hosts}
        self._rates, self._most_bytes = _Rates(rate), most_bytes
        self._count = Counter(
            "delf_jax_requests", "Requests", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "delf_jax_request_seconds",
            "Seconds from a request to the end of its response",
            ["path"],
            registry=registry,
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_checked(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Request(scope))
        app = refusal or self._app
        try:
            await app(scope, self._bounded(receive), send_checked)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._count.labels(path, str(status)).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, request: Request) -> Response | None:
        """The response to a request that may not be answered; None to one that may."""
        host = request.headers.get("host", "")
        if self._hosts and urllib.parse.urlsplit(f"//{host}").hostname not in (
            self._hosts
        ):
            return refuse(403, f"this server is not called {host!r:.100}")
        if request.url.path == "/healthz" or request.url.path.startswith("/static/"):
            return None  # They say nothing of the photos.
        if refusal := self._check_token(request):
            return refusal
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin")
            if origin and urllib.parse.urlsplit(origin).netloc != host:
                return refuse(403, "pages of other servers may not send anything here")
            length = request.headers.get("content-length", "")
            if length.isdigit() and int(length) > self._most_bytes:
                return self._too_large()
            client = request.client.host if request.client else ""
            if wait := self._rates.wait(client):
                return refuse(429, "too many requests from this address", wait)
        return None

    def _check_token(self, request: Request) -> Response | None:
        if not self._token:
            return None
        if request.url.path == "/" and (given := request.query_params.get("token")):
            if self._is_token(given):
                page = RedirectResponse("./", 303)
                page.set_cookie(COOKIE, given, httponly=True, samesite="lax")
                return page
        header = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(header) or self._is_token(request.cookies.get(COOKIE, "")):
            return None
        if "text/html" in request.headers.get("accept", ""):
            text = html.render("token.html", served=True)
            return HTMLResponse(text, 401, {"www-authenticate": "Bearer"})
        response = refuse(401, "expected a header 'Authorization: Bearer TOKEN'")
        response.headers["www-authenticate"] = "Bearer"
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _bounded(self, receive: Any) -> Any:
        """`receive`, that raises once a body is longer than it may be."""
        received = 0

        async def bounded() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most_bytes:
                raise HTTPException(413, self._too_large_words())
            return message

        return bounded

    def _too_large_words(self) -> str:
        return f"more than {self._most_bytes / 2**20:g} MiB; send a smaller photo"

    def _too_large(self) -> Response:
        return refuse(413, self._too_large_words())


def refuse(status: int, detail: str, wait: float = 0) -> Response:
    """A response that says why not, as FastAPI does; wait: seconds to try again in."""
    headers = {"retry-after": f"{wait:.0f}"} if wait else None
    content = json.dumps({"detail": detail})
    return Response(content, status, headers, "application/json")


class _Rates:
    """How many requests each address may still make: one more every so often."""

    def __init__(self, a_minute: int):
        self._a_minute = a_minute
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """0, and the request counts; or the seconds after which it may come again."""
        if not self._a_minute:
            return 0.0
        now, most = time.monotonic(), float(self._a_minute)
        left, at = self._known.pop(address, (most, now))
        left = min(most, left + (now - at) * most / 60)
        self._known[address] = (left - 1 if left >= 1 else left), now
        if len(self._known) > _ADDRESSES:
            self._known.popitem(last=False)
        return 0.0 if left >= 1 else max(1.0, (1 - left) * 60 / most)
