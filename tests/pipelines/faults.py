"""An HTTP/1.1 proxy in front of an S3 server that makes the faults which networks and stores make.

    proxy.add("PUT", r"/pool/.*\\.tar$", Refuse(503), times=3)

A fault is chosen by a request's method and path, acts on the `nth` such request and on every `every`-th from there, as
often as `times` says, and is over by `proxy.clear()`. All other requests are passed on as they are; all are logged.
"""

import email.utils
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

EVER = 1 << 30
_HOP = {"connection", "transfer-encoding", "content-length", "expect", "keep-alive"}  # not passed on: each leg's own


@dataclass
class Request:
    """What a client asked for."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What a client is told; `status` 0 where the connection is reset instead, after `cut` bytes of the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


class Fault:
    """What happens to one request. The plain one does nothing but pass it on. `happened` counts."""

    happened = 0
    body_bytes: int | None = None  # of the request's body, after which the connection is reset

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        """The answer to the request."""
        return proxy.forward(request)


@dataclass
class Refuse(Fault):
    """The store says that it cannot, now."""

    status: int = 503
    code: str = "SlowDown"

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        text = f"<Error><Code>{self.code}</Code><Message>Please reduce your request rate.</Message></Error>"
        return Answer(self.status, {"Content-Type": "application/xml"}, text.encode())


@dataclass
class Delay(Fault):
    """The store takes its time (seconds)."""

    seconds: float

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        time.sleep(self.seconds)
        return proxy.forward(request)


class CutRequest(Fault):
    """The connection is reset after so many bytes of the request's body; the store never sees it."""

    def __init__(self, body_bytes: int) -> None:
        self.body_bytes = body_bytes


@dataclass
class CutAnswer(Fault):
    """The store does what is asked; the connection is reset after so many bytes of its answer's body, or before any."""

    body_bytes_sent: int | None = None

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        answer = proxy.forward(request)
        if self.body_bytes_sent is None:
            return Answer(0, {}, b"")
        return Answer(answer.status, answer.headers, answer.body, self.body_bytes_sent)


@dataclass
class Change(Fault):
    """The answer's body is changed on its way, and said to be whole; `checked`: with the checksum of what it was."""

    change: Callable[[bytes], bytes]
    checked: bool

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        answer = proxy.forward(request)
        if not self.checked:
            for name in [name for name in answer.headers if name.lower().startswith("x-amz-checksum")]:
                del answer.headers[name]
        answer.body = self.change(answer.body)
        return answer


class Forget(Fault):
    """The store acknowledges a write and does not do it."""

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        return Answer(200, {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}, b"")


class Lose(Fault):
    """The store does a write, acknowledges it, and loses the object."""

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        answer = proxy.forward(request)
        proxy.delete(request)
        return answer


@dataclass
class IgnoreConditions(Fault):
    """The store does not know that header (If-Match, If-None-Match)."""

    header: str

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        request.headers.pop(self.header, None)
        return proxy.forward(request)


class Vanish(Fault):
    """The object is deleted just before it is asked for."""

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        proxy.delete(request)
        return proxy.forward(request)


@dataclass
class Act(Fault):
    """Something else is done just before the request arrives."""

    action: Callable[[], object]

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        self.action()
        return proxy.forward(request)


@dataclass
class ShiftClock(Fault):
    """The store's clock is off by so many seconds."""

    seconds: float

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        answer = proxy.forward(request)
        for name, value in answer.headers.items():
            if name.lower() in ("last-modified", "date"):
                shifted = email.utils.parsedate_to_datetime(value).timestamp() + self.seconds
                answer.headers[name] = email.utils.formatdate(shifted, usegmt=True)
        return answer


@dataclass
class Hold(Fault):
    """A request waits on its way until it is let go: it arrives then, or, with `arrive=False`, never does."""

    arrived: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)
    _arrive: bool = True

    def __call__(self, proxy: "FaultProxy", request: Request) -> Answer:
        self.arrived.set()
        self._go.wait(300)
        return proxy.forward(request) if self._arrive else Answer(0, {}, b"")

    def release(self, *, arrive: bool = True) -> None:
        """Let it go on."""
        self._arrive = arrive
        self._go.set()


@dataclass
class _Rule:
    method: str
    path: re.Pattern[str]
    fault: Fault
    nth: int
    every: int
    times: int
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one of those."""
        if not (re.fullmatch(self.method, method) and self.path.search(path)):
            return False
        self.seen += 1
        turn, rest = divmod(self.seen - self.nth, self.every)
        return rest == 0 and 0 <= turn < self.times


class FaultProxy:
    """The proxy; `url` is where clients find it. It serves from its start until `stop`."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname, parts.port
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.log: list[tuple[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, method: str, path: str, fault: Fault, *, nth: int = 1, every: int = 1, times: int = 1) -> Fault:
        """Let `fault` happen to requests of that method (a pattern) whose path has a match of `path`."""
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), fault, nth, every, times))
        return fault

    def clear(self) -> None:
        """No faults from now on, and an empty log."""
        with self._lock:
            self._rules.clear()
            self.log.clear()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, path: str) -> int:
        """How many such requests were made."""
        with self._lock:
            return sum(m == method and re.search(path, p) is not None for m, p in self.log)

    def fault_of(self, method: str, path: str) -> Fault:
        """What happens to this request, which is logged."""
        with self._lock:
            self.log.append((method, path))
            for rule in self._rules:
                if rule.strikes(method, path):
                    rule.fault.happened += 1
                    return rule.fault
        return Fault()

    def forward(self, request: Request) -> Answer:
        """The store's own answer."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=120)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
            body = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            if request.method == "HEAD" and (size := answer.getheader("Content-Length")):
                kept["Content-Length"] = size
            return Answer(answer.status, kept, body)
        finally:
            connection.close()

    def delete(self, request: Request) -> None:
        """Delete the object that the request is about."""
        headers = {name: request.headers[name] for name in ("Host", "Authorization")}
        done = self.forward(Request("DELETE", urlsplit(request.path).path, headers, b""))
        assert done.status == 204, done


class _Server(ThreadingHTTPServer):
    proxy: FaultProxy
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed say nothing here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        path = self.path
        fault = self.server.proxy.fault_of(self.command, urlsplit(path).path)
        size = int(self.headers.get("Content-Length") or 0)
        if fault.body_bytes is not None:
            self.rfile.read(min(size, fault.body_bytes))
            return self._reset()
        body = self.rfile.read(size)
        if len(body) < size:  # the client was killed while it wrote: a store keeps nothing of that
            return self._reset()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        answer = fault(self.server.proxy, Request(self.command, path, headers, body))
        if not answer.status:
            return self._reset()
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut])
        if answer.cut is not None:
            time.sleep(0.05)  # a reset overtakes what the client has not read yet
            self._reset()
        return None

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

    def log_message(self, *_: object) -> None:
        """Nothing: the proxy keeps the log."""

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # the socket is closed with the last file that was made of it
        self.connection.close()
        self.close_connection = True


@contextmanager
def serving(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream` for as long as the block lasts."""
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.stop()
