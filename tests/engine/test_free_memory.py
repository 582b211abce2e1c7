"""Free memory goes back to the system while the process runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from engine.ops import free_memory
from engine.ops.background import meanwhile
from tests.support.waiting import wait_until_async

PIECE, PIECES = 2_000, 50_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_what_was_needed_once_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "INTERVAL_SECONDS", 0.01)

    async def run() -> None:
        taken = [bytes(PIECE) for _ in range(PIECES)]
        last = bytes(PIECE)  # what is behind it cannot be the end of the heap
        before = resident_bytes()
        taken.clear()
        async with meanwhile(free_memory.give_back_memory()):
            await wait_until_async(lambda: resident_bytes() < before - PIECE * PIECES // 2)
        assert len(last) == PIECE

    asyncio.run(run())
