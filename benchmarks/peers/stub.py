"""A model on the loopback that thinks for so many seconds and then rewrites the program, in the chat format of OpenAI.

    python stub.py SECONDS even|random

prints its port. Every answer sets X to a number of its own, so that no two proposals are the same.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = """\
<NAME>
number_{number}
</NAME>
<DESCRIPTION>
Another number.
</DESCRIPTION>
<CODE>
```python
# EVOLVE-BLOCK-START
X = {number}
# EVOLVE-BLOCK-END
```
</CODE>
"""


class Stub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    numbers = itertools.count(1)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seconds = float(sys.argv[1])
        time.sleep(seconds if sys.argv[2] == "even" else random.expovariate(1 / seconds))
        message = {"role": "assistant", "content": ANSWER.format(number=next(self.numbers))}
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "stub",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    print(server.server_port, flush=True)
    server.serve_forever()
