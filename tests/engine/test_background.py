"""Work beside the pipeline: its failure is logged, and ends nothing else."""

from __future__ import annotations

import asyncio

import pytest

from engine.ops import log
from engine.ops.background import meanwhile


def test_work_that_fails_is_logged_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("text", "info")

    async def fail() -> None:
        raise ValueError(f"PLANT{len('12')}")

    async def run() -> None:
        async with meanwhile(fail()):
            async with asyncio.timeout(10):
                while not (found := capsys.readouterr().err):
                    await asyncio.sleep(0)
            assert "ERROR" in found
            assert "work beside the pipeline has failed" in found
            assert "in fail" in found
            assert "builtins.ValueError" in found
            assert "PLANT2" not in found

    asyncio.run(run())


def test_work_is_cancelled_at_the_end_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("text", "info")
    cancelled = False

    async def wait() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def run() -> None:
        async with meanwhile(wait()):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert cancelled
    assert capsys.readouterr().err == ""
