"""An HTTP server on the loopback interface for tests: it counts requests, and fails in the ways of real servers."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What the server sends for a path. ``cut`` bytes at the end of the body are left out."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


@dataclass
class FileServer:
    """The files of a server, and what was asked of it.

    ``files`` maps paths to bodies, answers, or functions that are called with the number of earlier requests for the
    path. Files that were PUT are there, too.
    """

    url: str
    files: dict[str, bytes | Answer | Callable[[int], Answer]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, path: str) -> str:
        """Return the URL of a path."""
        return f"{self.url}/{path}"

    def answer(self, path: str, headers: dict[str, str]) -> Answer:
        with self.lock:
            earlier = self.requests[path]
            self.requests[path] += 1
            self.headers.append(headers)
            found = self.files.get(path, Answer(b"<html>no such page</html>", 404))
        if isinstance(found, bytes):
            return Answer(found)
        return found if isinstance(found, Answer) else found(earlier)


@contextmanager
def serve() -> Iterator[FileServer]:
    """Serve files until the context ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/").partition("?")[0]
            answer = served.answer(path, dict(self.headers))
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) - answer.cut])

        def do_PUT(self) -> None:
            path = self.path.lstrip("/").partition("?")[0]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            refused = served.files.get(f"refused/{path}")
            status = refused.status if isinstance(refused, Answer) else 201
            if status == 201:
                served.files[path] = body
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
