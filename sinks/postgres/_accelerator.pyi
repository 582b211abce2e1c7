"""The accelerator of the COPY encoder; see accelerator.py."""

from collections.abc import Sequence

from engine.change import Row

def encode_rows(
    program: bytes, width: int, rows: Sequence[Row], start: int, stop: int, /
) -> bytes | None: ...
