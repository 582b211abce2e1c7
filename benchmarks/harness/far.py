"""
A server that is far away: a proxy in a process of its own delays each direction.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from engine.sandbox.proxy import Proxy

__all__ = ["ROUND_TRIP_SECONDS", "far_away"]

#: The time of a round trip in the measurements whose names end with ``-far``.
ROUND_TRIP_SECONDS = 0.02


@contextmanager
def far_away(url: str, round_trip_seconds: float | None) -> Iterator[str]:
    """The URL under which the server of ``url`` is that far away. None: ``url`` itself, without a
    proxy.
    """
    if round_trip_seconds is None:
        yield url
        return
    parts = urlsplit(url)
    address = [str(parts.hostname), str(parts.port), str(round_trip_seconds / 2)]
    command = [sys.executable, "-P", "-m", __name__, *address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"
        try:
            yield parts._replace(netloc=netloc).geturl()
        finally:
            process.kill()


def main() -> None:
    """Forward until standard input ends."""
    host, port, delay_seconds = sys.argv[1:]
    with Proxy(host, int(port), delay_seconds=float(delay_seconds)) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
