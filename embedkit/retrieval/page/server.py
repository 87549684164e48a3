"""The server of the page: one index, this machine only unless an address is given."""

from __future__ import annotations

import logging
import socket
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from embedkit.errors import UserError
from embedkit.retrieval.page.queries import SearchPage, read_multipart

if TYPE_CHECKING:
    from embedkit.retrieval.index import Index

MAX_UPLOAD = 32 * 2**20
"""Bytes of a form at most."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_log = logging.getLogger(__name__)


class SearchServer(ThreadingHTTPServer):
    """An HTTP server of the page of an index.

    On a loopback address it answers requests that name one as their host, so that no page of another site can reach it
    by a name that points here. Forms are taken from its own pages only.

    Parameters
    ----------
    index : Index
        What is searched.
    host : str
        Address to listen on.
    port : int
        0 takes a free one.
    k, method
        As of `SearchPage`.

    Raises
    ------
    UserError
        The address or port cannot be had.

    Examples
    --------
    >>> import embedkit
    >>> from embedkit.data.builtin.sentences import tokenizer
    >>> from embedkit.models import StaticEncoder
    >>> index = embedkit.build_index(["a red lamp", "two cats"], "lamps", StaticEncoder(tokenizer(), dim=8))
    >>> with SearchServer(index, port=0) as server:
    ...     server.url
    'http://127.0.0.1:.../'
    """

    daemon_threads = True

    def __init__(
        self, index: Index, *, host: str = "127.0.0.1", port: int = 8765, k: int = 10, method: str = "exact"
    ) -> None:
        self.page = SearchPage(index, k=k, method=method)
        self.host = host
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise UserError(f"cannot listen there ({what})", where=f"{host}:{port}",
                            remedy="give another --port, or --port 0 for a free one")  from error  # fmt: skip

    @property
    def url(self) -> str:
        """The address of the page."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a request that failed; the server goes on. A browser that went away is no news."""
        gone = isinstance(sys.exc_info()[1], ConnectionError | TimeoutError)
        _log.log(logging.DEBUG if gone else logging.ERROR, "a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    timeout = 30
    server_version = "embedkit"
    sys_version = ""

    def do_GET(self) -> None:
        """The page, or the image of a row."""
        if not self._welcome():
            return
        path = urlsplit(self.path)
        if path.path == "/":
            self._page(dict(parse_qsl(path.query, keep_blank_values=True, max_num_fields=20)))
        elif path.path.startswith("/image/") and (place := path.path[len("/image/") :]).isdecimal():
            jpeg = self.server.page.image(int(place[:12]))
            self._send(200, "image/jpeg", jpeg) if jpeg else self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """The answer to a form with an image."""
        if not self._welcome():
            return
        length = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/":
            self._refuse(HTTPStatus.NOT_FOUND)
        elif not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > MAX_UPLOAD:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            body = self.rfile.read(int(length))
            try:
                fields = read_multipart(self.headers.get("Content-Type", ""), body)
            except UserError as error:
                self._send(400, "text/plain; charset=utf-8", str(error).encode())
                return
            self._page(fields)

    def _welcome(self) -> bool:
        """Whether the request is meant for this server; else it is refused."""
        own = f":{self.server.server_address[1]}"
        host = self.headers.get("Host", "")
        hosts = {(f"[{name}]" if ":" in name else name) + own for name in LOOPBACK}
        if self.server.host in LOOPBACK and host not in hosts:
            self._refuse(HTTPStatus.FORBIDDEN)
            return False
        origin = self.headers.get("Origin")
        if self.command == "POST" and origin is not None and origin != f"http://{host}":
            self._refuse(HTTPStatus.FORBIDDEN)
            return False
        return True

    def _page(self, fields: dict[str, str | bytes] | dict[str, str]) -> None:
        status, html = self.server.page.answer(fields)
        self._send(status, "text/html; charset=utf-8", html.encode("utf-8", "replace"))

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode(), close=True)

    def _send(self, status: int, kind: str, content: bytes, *, close: bool = False) -> None:
        self.send_response(status)
        if close:  # what a refused request sends on is not read
            self.send_header("Connection", "close")
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(content))), ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin"), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news: for `--debug` only."""
        _log.debug(format, *args)
