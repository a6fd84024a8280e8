"""A page to play with, served to this machine alone: the standard library's server around `fastdmt.reports.play`.

It listens on the loopback interface. Every address begins with a random token, so that other users of the machine and
pages of other sites cannot guess one; the Host header must name this machine, so that no foreign name that was pointed
here (DNS rebinding) is answered; bodies have limits.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import tempfile
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from fastdmt.drawing import draw
from fastdmt.errors import FastDMTError, first_line
from fastdmt.reports.play import LARGEST, MADE_SOUNDS, Clip, Table
from fastdmt.reports.predict import LEVEL
from fastdmt_loaders import DataError

HOST = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost", "[::1]")  # under any port: a tunnel may end at another one
QUESTION = 4096  # bytes of a JSON body
PATIENCE = 30.0  # seconds without a byte before a connection is closed


class Server(ThreadingHTTPServer):
    """Use as a context; `address` is what a browser opens, `serve_forever` answers until `shutdown`.

    Args:
        model: as for `fastdmt.evaluation.evaluate.evaluate`.
        examples: clips to offer from the start.
        port: 0: any free one.
        largest: bytes of a dropped file.
        title: of the page.

    Raises:
        FastDMTError: the port is taken or not allowed.
    """

    daemon_threads = True

    def __init__(
        self, model, examples: Iterable[Clip] = (), port: int = 0, largest: int = LARGEST, title: str = "FastDMT"
    ) -> None:
        self.token, self.nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self.folder = tempfile.TemporaryDirectory(prefix="fastdmt-serve-")
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            self.folder.cleanup()
            raise FastDMTError(f"cannot listen on port {port}: {first_line(error)}; give another --port") from None
        self.table = Table(model, Path(self.folder.name), examples, largest)
        pseudo = model.cfg.pseudo
        config = {
            "colours": base64.b64encode(draw.HEAT_TABLE.astype(np.uint8).tobytes()).decode(),
            "level": LEVEL,
            "delta": pseudo.delta,
            "tau": pseudo.tau,
            "largest": largest,
            "seconds": model.cfg.data.seconds,
            "made": list(MADE_SOUNDS),
        }
        page = Template(resources.files("fastdmt.reports").joinpath("templates/serve.html").read_text(encoding="utf-8"))
        text = json.dumps({"title": title, **config}).replace("<", "\\u003c")
        self.page = page.substitute(nonce=self.nonce, config=text).encode()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/{self.token}/"

    def server_close(self) -> None:
        super().server_close()
        self.folder.cleanup()

    def handle_error(self, request, client_address) -> None:
        """A browser that went away is nothing to report, and the rest was answered with status 500."""


class Handler(BaseHTTPRequestHandler):
    """Answers the page and its requests."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "fastdmt", ""

    def do_GET(self) -> None:
        route = self._route()
        if route == "":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif route == "clips":
            table = self.server.table
            self._answer(lambda: {"clips": [table.describe(id) for id in list(table.clips)]})
        elif route is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such address")

    def do_POST(self) -> None:
        route = self._route()
        if route is None:
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the body needs its length")
        elif route == "add" and int(length) > self.server.table.largest:
            most = self.server.table.largest / 2**20
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a file may have {most:.0f} MiB at most")
        elif route == "add":
            name = parse_qs(urlsplit(self.path).query).get("name", [""])[0]
            table = self.server.table
            self._answer(lambda: table.describe(table.add(name, self.rfile, int(length))))
        elif route == "look" and int(length) > QUESTION:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a question may have {QUESTION} bytes at most")
        elif route == "look":
            self._answer(lambda: self.server.table.look(*_question(self.rfile.read(int(length)))))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such address")

    def _route(self) -> str | None:
        """What follows the token; None when the request was refused."""
        host = self.headers.get("Host", "")
        token, slash, route = urlsplit(self.path).path[1:].partition("/")
        if host not in HOSTS and host.rpartition(":")[0] not in HOSTS:
            wrong = "this page is for this machine alone"
        elif self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            wrong = "this page answers no other page"
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()) or not slash:
            wrong = "open the address that fastdmt serve printed"
        else:
            return route
        self._refuse(HTTPStatus.FORBIDDEN, wrong)
        return None

    def _answer(self, work) -> None:
        try:
            content = work()
        except (FastDMTError, DataError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}".splitlines()[0])
        else:
            self._send(HTTPStatus.OK, json.dumps(content).encode())

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send(status, json.dumps({"error": text}).encode())

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            (
                "Content-Security-Policy",
                f"default-src 'none'; script-src 'nonce-{self.server.nonce}'; style-src 'nonce-{self.server.nonce}'; "
                "img-src data: blob:; media-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'",
            ),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line would show the token."""


def _question(body: bytes) -> tuple[str, str, float | None]:
    """Frame, sound and moment of a `look`. Raises FastDMTError: it is no such JSON."""
    try:
        asked = json.loads(body)
        moment = asked.get("moment")
        if moment is not None and not 0 <= float(moment) < 1e9:
            raise ValueError("moment")
        return str(asked["frame"]), str(asked["sound"]), None if moment is None else float(moment)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FastDMTError("the question is not understood; load the page anew") from None
