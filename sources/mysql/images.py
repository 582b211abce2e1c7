"""
The text of a row image's decoder: null bitmap, cells, tuple.

Everything that lies at a known distance is fused into one ``unpack_from``, the length of the next
variable cell included. Where columns may be NULL there are two ways through a row: one for rows
without a NULL, straight; one that asks per nullable column.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from sources.mysql.cells import SIZES, Cell, packed_size

__all__ = ["Image", "Source"]


class Source:
    """Lines of Python, the names they use, and which column each line is about."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ordinals: list[int | None] = []
        self.names: dict[str, Any] = {"from_bytes": int.from_bytes}

    def line(self, text: str, ordinal: int | None = None) -> None:
        self.lines.append(text)
        self.ordinals.append(ordinal)

    def unpack(self, codes: str) -> str:
        """The name of the function that unpacks these codes."""
        name = f"unpack_{codes}"
        self.names[name] = struct.Struct("<" + codes).unpack_from
        return name

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


class Image:
    """Writes the reading of one row image into variables ``<letter><ordinal>``.

    ``present`` and ``nullable`` are bit masks by ordinal. The position is ``p``; it ends up behind
    the image.
    """

    def __init__(self, cells: Sequence[Cell], present: int, nullable: int, letter: str) -> None:
        self.cells = [cell for cell in cells if present >> cell.ordinal & 1]
        self.letter = letter
        # The null bitmap has a bit per column that is present.
        self.null_bits = {
            cell.ordinal: 1 << number
            for number, cell in enumerate(self.cells)
            if nullable >> cell.ordinal & 1
        }
        self.bitmap = (len(self.cells) + 7) // 8

    def write(self, source: Source, indent: str) -> None:
        """Write it with that indentation."""
        if not self.null_bits:
            self._run(source, indent, self.cells, f"{self.bitmap}x")
            return
        first = next(
            number for number, cell in enumerate(self.cells) if cell.ordinal in self.null_bits
        )
        leading, rest = self.cells[:first], self.cells[first:]
        self._bitmap(source, indent, leading)
        source.line(f"{indent}if nulls & {sum(self.null_bits.values())}:")
        self._questions(source, indent + "    ", rest)
        source.line(f"{indent}else:")
        self._run(source, indent + "    ", rest)

    def _bitmap(self, source: Source, indent: str, leading: Sequence[Cell]) -> None:
        """Read the null bitmap, and the columns before the first nullable one."""
        if leading and self.bitmap in (1, 2, 4, 8):
            self._run(source, indent, leading, SIZES[self.bitmap][0], ["nulls"])
            return
        size = self.bitmap
        if size == 1:
            source.line(f"{indent}nulls = data[p]")
        else:
            source.line(f"{indent}nulls = from_bytes(data[p:p + {size}], 'little')")
        source.line(f"{indent}p += {size}")
        self._run(source, indent, leading)

    def _questions(self, source: Source, indent: str, cells: Sequence[Cell]) -> None:
        run: list[Cell] = []
        for cell in cells:
            bit = self.null_bits.get(cell.ordinal)
            if bit is None:
                run.append(cell)
                continue
            self._run(source, indent, run)
            run = []
            source.line(f"{indent}if nulls & {bit}:")
            source.line(f"{indent}    {self.letter}{cell.ordinal} = None")
            source.line(f"{indent}else:")
            self._run(source, indent + "    ", [cell])
        self._run(source, indent, run)

    def _run(
        self,
        source: Source,
        indent: str,
        cells: Sequence[Cell],
        codes: str = "",
        targets: Sequence[str] = (),
    ) -> None:
        """Read cells that are not NULL; ``codes`` and ``targets`` come first in the same unpack."""
        group = _Group(source, indent, codes, list(targets))
        for cell in cells:
            source.names.update(cell.names)
            group.take(cell, f"{self.letter}{cell.ordinal}")
        group.flush()


class _Group:
    """What one ``unpack_from`` takes, and the values made of it."""

    def __init__(self, source: Source, indent: str, codes: str, targets: list[str]) -> None:
        self.source, self.indent = source, indent
        self.codes, self.targets = codes, targets
        self.values: list[tuple[str, int]] = []

    def take(self, cell: Cell, variable: str) -> None:
        codes, number = (cell.codes, cell.value) if not cell.prefix else SIZES[cell.prefix]
        raw = _raw_names(cell, codes, variable)
        self.codes += codes
        self.targets += raw
        if not cell.prefix:
            if cell.value != "{0}":
                self.values.append((f"{variable} = {cell.value.format(*raw)}", cell.ordinal))
            return
        self._unpack()
        size = packed_size(self.codes)
        self.source.line(f"{self.indent}q = p + {size}")
        self.source.line(f"{self.indent}p = q + {number.format(*raw)}")
        self._make()
        value = cell.value.format("data[q:p]")
        self.source.line(f"{self.indent}{variable} = {value}", cell.ordinal)

    def flush(self) -> None:
        """Read what is pending."""
        if self.codes:
            self._unpack()
            self.source.line(f"{self.indent}p += {packed_size(self.codes)}")
            self._make()

    def _unpack(self) -> None:
        if not self.targets:
            return
        if self.codes == "B":
            self.source.line(f"{self.indent}{self.targets[0]} = data[p]")
            return
        names = ", ".join(self.targets) + ("," if len(self.targets) == 1 else "")
        self.source.line(f"{self.indent}{names} = {self.source.unpack(self.codes)}(data, p)")

    def _make(self) -> None:
        for text, ordinal in self.values:
            self.source.line(self.indent + text, ordinal)
        self.codes, self.targets, self.values = "", [], []


def _raw_names(cell: Cell, codes: str, variable: str) -> list[str]:
    """Where the raw values go: straight into the variable if they are the value."""
    if not cell.prefix and cell.value == "{0}":
        return [variable]
    count = len(struct.unpack("<" + codes, bytes(packed_size(codes))))
    return [f"{variable}_{part}" for part in range(count)]
