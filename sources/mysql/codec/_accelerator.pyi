# A plan is (program, objects); accelerator.py makes it.

from typing import Any

from engine.change import Row

_Plan = tuple[bytes, tuple[Any, ...]]

def decode_rows(
    before: _Plan | None, after: _Plan | None, data: bytes, start: int, end: int, /
) -> tuple[list[Row] | None, list[Row] | None, int]: ...
def take_rows(plan: _Plan, data: bytes, start: int, /) -> tuple[list[Row], int]: ...
