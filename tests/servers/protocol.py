"""An HTTP server in a thread that keeps what it was asked, and fails by rule."""

from __future__ import annotations

import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Fault = int | Literal["hang", "drop", "half"]


@dataclass(frozen=True)
class Request:
    """What was asked; `label` is what rules are matched with: method, path, GraphQL operation."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    label: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer; a mapping or list as the body is sent as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Rule:
    """Requests whose label has `pattern` fail, `times` of them after the first `after`.

    A number is the status that they are answered with, after the request was carried out where
    `done` says so (an answer that was lost on its way). Of `half` an answer the rest never comes.
    """

    pattern: str
    fault: Fault
    times: float = float("inf")
    after: int = 0
    text: str = "out of order"
    done: bool = False

    def takes(self, label: str) -> bool:
        if not re.search(self.pattern, label):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return self.times >= 0


class Server:
    """Answers on 127.0.0.1 until the block ends. Subclasses say what by `answer`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.rules: list[Rule] = []
        self.lock = threading.RLock()
        self._ends = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let go of what hangs, and refuse connections from now on."""
        self._ends.set()
        self._http.shutdown()
        self._http.server_close()

    def fails(self, pattern: str, fault: Fault, **more: Any) -> None:
        """Add a rule."""
        with self.lock:
            self.rules.append(Rule(pattern, fault, **more))

    def heals(self) -> None:
        """Forget all rules, and let go of what hangs."""
        with self.lock:
            self.rules.clear()
            self._ends.set()
            self._ends = threading.Event()

    def asked(self, pattern: str = "") -> int:
        """How many requests had a label like this."""
        with self.lock:
            return sum(bool(re.search(pattern, request.label)) for request in self.requests)

    def answer(self, request: Request) -> Reply:
        """Answer; one request at a time."""
        raise NotImplementedError

    def answered(self, request: Request) -> Reply | None:
        """The answer by the rules, or else the right one; None to drop the connection."""
        with self.lock:
            self.requests.append(request)
            rule = next((rule for rule in self.rules if rule.takes(request.label)), None)
            ends = self._ends
            if rule is None or rule.done or rule.fault == "half":
                reply = self.answer(request)
        if rule is None:
            return reply
        if rule.fault == "half":
            size = {"Content-Length": str(len(reply.body))}
            return Reply(reply.body[: len(reply.body) // 2], reply.status, reply.headers | size)
        if rule.fault == "hang":
            ends.wait()
        if isinstance(rule.fault, str):
            return None
        return Reply({"errors": [{"message": rule.text}], "error": rule.text}, rule.fault)


def _label(method: str, path: str, body: bytes) -> str:
    if path != "/graphql":
        return f"{method} {path}"
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", json.loads(body)["query"])
    return f"{method} {path} {found[1] if found else '?'}"


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            at = urlsplit(self.path)
            path = unquote(at.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            label = _label(self.command, path, body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, path, parse_qs(at.query), headers, body, label)
            reply = server.answered(request)
            if reply is None:
                self.close_connection = True
                return
            raw = reply.body
            content = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
            kind = "application/octet-stream" if isinstance(raw, bytes) else "application/json"
            self.send_response(reply.status)
            for name, value in {"Content-Type": kind, **reply.headers}.items():
                self.send_header(name, value)
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    return Handler
