"""
The server of a running supervisor.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support.engine_process import EngineProcess
from tests.support.waiting import wait_until

__all__ = ["CONTROL", "READ", "SupervisorServer", "follows"]

READ, CONTROL = "read-" * 4, "control-" * 3


class SupervisorServer:
    """The supervisor's server, asked with a token."""

    def __init__(self, engine: EngineProcess) -> None:
        self._base = f"http://127.0.0.1:{engine.port}"
        self._engine = engine

    def ask(self, path: str, body: object = None, token: str = READ) -> tuple[int, bytes]:
        """The status code and the body of a response."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Tailrace-User": "ada"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self._base + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """The status by pipeline; empty while there is no answer."""
        assert self._engine.process.poll() is None, self._engine.tail()
        try:
            code, body = self.ask("/status")
        except OSError:
            return {}
        assert code == 200
        return {it["pipeline"]: it for it in json.loads(body)["pipelines"]}

    def wait(self, name: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until a pipeline fulfils a condition; return it."""
        found: dict[str, Any] = {}

        def fulfilled() -> bool:
            found.clear()
            found.update(self.pipelines().get(name, {}))
            return bool(found) and bool(condition(found))

        try:
            wait_until(fulfilled, timeout=30)
        except AssertionError as error:
            raise AssertionError(f"{name}: {found}, {self._engine.tail()}") from error
        return found


def follows(it: dict[str, Any]) -> bool:
    """Whether the pipeline streams, and has its table."""
    return bool(it["status"] and it["status"]["state"] == "streaming" and it["tables"].get("live"))
