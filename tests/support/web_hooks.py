"""
A web server that notes what is posted to it.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["SECRET", "Hook"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Hook:
    """An HTTP server on this machine. It answers with each status of ``answers``, then with 200;
    None closes the connection without an answer. A request whose ``action`` is ``refused`` is
    answered with 500.
    """

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.refused: set[str] = set()
        self.requests: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                answer = hook.answers.pop(0) if hook.answers else 200
                if hook.refused and json.loads(body).get("action") in hook.refused:
                    answer = 500
                if answer is not None:
                    self.send_response(answer)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, format: str, *words: object) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/planted-token"

    def types(self) -> list[str]:
        """The types of the notifications that were received, attempts included."""
        return [json.loads(body)["type"] for _, body in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
