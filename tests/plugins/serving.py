"""Servers on this machine that stand in for the services that plugins talk to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest


class Handler(BaseHTTPRequestHandler):
    """Answers in JSON; without ``post`` of its own, it answers a POST as a GET."""

    def get(self, body: bytes) -> None:
        raise NotImplementedError

    def post(self, body: bytes) -> None:
        self.get(body)

    def answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.get(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_HEAD(self) -> None:
        self.get(b"")

    def do_POST(self) -> None:
        self.post(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    """Serve and yield ``host:port``, which no proxy stands before."""
    with pytest.MonkeyPatch.context() as patch, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
