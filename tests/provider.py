"""A provider of models on the loopback: it speaks as the real ones do, makes one edit, and fails in the ways they fail.

    with provider(edit=("train.py", "LR = 0.04", "LR = 0.02")) as stub:
        OpenAI(base_url=stub.url, api_key="none") ...
        stub.mode = "429"
        stub.requests[-1].body

Chat completions, responses and messages, each streamed and whole, with tool calls. `tests.brain` decides what is said:
it uses the agent's own tools, whichever they are. `python -m tests.provider` is the same as a process: it prints its
URL, and serves until its stdin is closed.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import dialects
from tests.brain import Edit, Heard, Reply, answer

Maker = Callable[["Request"], Edit]
Json = dict[str, Any]

STATUSES = {
    "401": (401, "authentication_error", "invalid_api_key"),
    "404": (404, "not_found_error", "model_not_found"),
    "429": (429, "rate_limit_error", "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota", "insufficient_quota"),  # nothing left on the account
    "500": (500, "server_error", None),
}
MODES = (
    "ok",
    *STATUSES,
    "hang",  # never answers
    "stall",  # begins to, and never ends
    "truncate",  # the connection is cut in the middle of the answer
    "length",  # the answer ends where the tokens end
    "noise",  # a stream whose events are no JSON
    "html",  # status 200, and a page for people: a proxy, or a wrong URL
    "garbage",  # words in no form that was asked for
    "empty",  # no words at all
    "badsearch",  # an edit of text that is not in the file
)
_ROUTES = {
    "/chat/completions": dialects.Chat,
    "/responses": dialects.Responses,
    "/messages": dialects.Messages,
}


@dataclass(frozen=True)
class Request:
    """What a client asked: the `number` counts from 1."""

    number: int
    path: str
    headers: dict[str, str]  # names in small letters
    body: Json
    heard: Heard

    @property
    def text(self) -> str:
        """All that the client said, as one text."""
        return self.heard.text


class Provider(ThreadingHTTPServer):
    """`edit` is what every conversation comes to, or makes it from the request; `say`, if given, is said instead."""

    daemon_threads = True

    def __init__(
        self,
        edit: Edit | Maker,
        mode: str,
        say: Callable[[Request], str | Reply] | None,
        usage: tuple[int, int],
        port: int,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.edit, self.mode, self.say, self.usage = edit, mode, say, usage
        self.retry_after = "0"  # of a 429, in seconds
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """What an OpenAI client takes as its base URL; for Anthropic's it is without the `/v1`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def taken(self, path: str, headers: dict[str, str], body: Json, heard: Heard) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, path, headers, body, heard)
            self.requests.append(request)
        return request

    def reply(self, request: Request) -> Reply:
        if self.say is not None:
            said = self.say(request)
            return said if isinstance(said, Reply) else Reply(said)
        edit = self.edit(request) if callable(self.edit) else self.edit
        return answer(request.heard, edit, self.mode)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what half of these tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def provider(
    edit: Edit | Maker = ("train.py", "LR = 0.04", "LR = 0.02"),
    mode: str = "ok",
    say: Callable[[Request], str | Reply] | None = None,
    usage: tuple[int, int] = (1000, 50),
    port: int = 0,
) -> Iterator[Provider]:
    """Serve from a thread of this process. `usage`: tokens of each request, in and out."""
    with Provider(edit, mode, say, usage, port) as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield stub
        finally:
            stub.closing.set()
            stub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_GET(self) -> None:
        if self.path.partition("?")[0].endswith("/models"):
            model = {"id": "stub-1", "object": "model", "created": 0, "owned_by": "stub"}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._refuse(404, "not_found_error", None)

    def do_POST(self) -> None:
        stub, path = self.server, self.path.partition("?")[0]
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.endswith("/count_tokens"):
            self._send(200, {"input_tokens": len(data) // 4})
            return
        dialect = next((each for end, each in _ROUTES.items() if path.endswith(end)), None)
        if dialect is None:
            self._refuse(404, "not_found_error", None)
            return
        body = json.loads(data)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = stub.taken(path, headers, body, dialect.heard(body))
        mode = stub.mode
        if mode in STATUSES:
            self._refuse(*STATUSES[mode])
        elif mode == "hang":
            stub.closing.wait()
        elif mode == "html":
            self._send(200, "<html><body>Welcome</body></html>")
        else:
            said = dialect(body, stub.reply(request), stub.usage)
            events = [("", "{oops")] if mode == "noise" else list(said.events())
            self._stream(events, mode) if body.get("stream") else self._send(200, said.whole(), mode)

    def _refuse(self, status: int, kind: str, code: str | None) -> None:
        retry = {"Retry-After": self.server.retry_after} if status == 429 else {}
        error = {"message": f"the stub says {status}", "type": kind, "code": code, "param": None}
        self._send(status, {"type": "error", "error": error}, headers=retry)

    def _send(self, status: int, said: Json | str, mode: str = "ok", headers: dict[str, str] | None = None) -> None:
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(said, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self._in_part([data[: len(data) // 2], data[len(data) // 2 :]], mode)

    def _stream(self, events: list[tuple[str, Json | str]], mode: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        texts = [
            (f"event: {name}\n" if name else "") + f"data: {said if isinstance(said, str) else json.dumps(said)}\n\n"
            for name, said in events
        ]
        chunks = [b"%x\r\n%s\r\n" % (len(text.encode()), text.encode()) for text in texts]
        self._in_part([*chunks, b"0\r\n\r\n"], mode)

    def _in_part(self, pieces: list[bytes], mode: str) -> None:
        """All of the pieces; of an answer that is cut or stalls, the first half."""
        broken = mode in ("truncate", "stall")
        for piece in pieces[: len(pieces) // 2] if broken else pieces:
            self.wfile.write(piece)
        if mode == "stall":
            self.server.closing.wait()
        self.close_connection = self.close_connection or broken

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider")
    parser.add_argument(
        "--edit", nargs=3, metavar=("PATH", "OLD", "NEW"), default=("train.py", "LR = 0.04", "LR = 0.02")
    )
    parser.add_argument("--mode", choices=MODES, default="ok")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with provider(tuple(given.edit), given.mode, port=given.port) as stub:
        print(stub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
