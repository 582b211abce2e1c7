from collections.abc import Sequence

from engine.change import Row

def encode_rows(
    program: bytes, width: int, rows: Sequence[Row], start: int, stop: int, /
) -> bytes | None: ...
