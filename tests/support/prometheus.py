"""
A real Prometheus with the project's configuration and alert rules.

It scrapes each second, the waits of the rules (``for``) are one second, and a checkpoint is old
after 8 seconds, which is more than a heartbeat. If it is hurried, a minute of a rule is a second, a
proof is old after 60 seconds, and an eighth of the memory is much. Only these numbers differ.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.sandbox import prometheus_command
from tests.support.waiting import wait_until

__all__ = ["Prometheus"]

CONFIGURATION = Path(__file__).parents[2] / "config" / "prometheus"


class Prometheus:
    """Scrapes one engine while it is entered. Raises ``SandboxUnavailable``."""

    def __init__(self, folder: Path, engine_port: int, *, hurried: bool = False) -> None:
        self._command = prometheus_command("prometheus")
        self._folder = folder
        for path in CONFIGURATION.glob("*.yml"):
            text = re.sub(r"(interval|for): \w+$", r"\1: 1s", path.read_text(), flags=re.MULTILINE)
            text = text.replace("tailrace:9187", f"127.0.0.1:{engine_port}")
            text = re.sub(r"(tailrace_checkpoint_age_seconds) > \d+", r"\1 > 8", text)
            text = _hurried(text) if hurried else text
            (folder / path.name).write_text(text)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"

    def query(self, expression: str) -> list[float]:
        """The values of an expression now."""
        found = self._get("query?" + urllib.parse.urlencode({"query": expression}))
        return [float(it["value"][1]) for it in found["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        found = self._get("alerts")["alerts"]
        return {it["labels"]["alertname"] for it in found if it["state"] == "firing"}

    def wait_for(self, *names: str) -> None:
        """Wait until these alerts fire, and no others."""
        seen: list[set[str]] = []

        def fire() -> bool:
            seen[:] = [self.firing()]
            return seen[0] == set(names)

        try:
            wait_until(fire, timeout=40)
        except AssertionError as error:
            raise AssertionError(f"{set(names)} should fire, {seen[0]} do") from error

    def wait_until_fires(self, *names: str) -> None:
        """Wait until one of these alerts fires, whatever else does."""
        wait_until(
            lambda: not self.firing().isdisjoint(names), timeout=40, what=f"{' or '.join(names)}"
        )

    def _get(self, path: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def __enter__(self) -> Prometheus:
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'tsdb'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._ready, what="Prometheus")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(10)


def _hurried(rules: str) -> str:
    """The rules with a second for each minute."""

    def window(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * (60 if found[3] == 'h' else 1)}s"

    def lag(found: re.Match[str]) -> str:
        return f"{found[1]} > {int(found[2]) // 60}"

    rules = re.sub(r"(\[|offset )(\d+)([mh])\b", window, rules)
    rules = re.sub(r"(tailrace_lag_seconds\S*) > (\d+)", lag, rules)
    return rules.replace("> 7 * 86400", "> 60").replace("> 2 * 1024", "> 0.25 * 1024")
