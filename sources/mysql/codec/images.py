"""
Writes the Python code that reads one row image: its null bitmap and its cells.

All cells up to the next one of variable size are unpacked by one ``unpack_from`` per byte order,
together with the length of that cell. ``rows`` shows an example of the code.

Where columns may be NULL the code has two paths. A row without a NULL is read like one without
nullable columns. Any other row is read in stretches: a stretch without a NULL is read the same way,
a stretch with NULLs is unpacked by functions that are made once for that combination of NULLs and
kept (``_Shapes``).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from sources.mysql.codec.cells import SIZES, Cell, count_values, packed_size

__all__ = ["Image", "SourceCode"]

# A stretch has at most this many nullable cells, so at most 64 combinations of NULLs.
_STRETCH = 6
_RAW = re.compile(r"\braw(\d+)\b")


class SourceCode:
    """Lines of Python, the globals that they use, and the column that each line reads."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ordinals: list[int | None] = []
        self.names: dict[str, Any] = {"from_bytes": int.from_bytes}

    def line(self, text: str, ordinal: int | None = None) -> None:
        """Add a line; ``ordinal`` is the column whose value it makes."""
        self.lines.append(text)
        self.ordinals.append(ordinal)

    def unpack(self, codes: str, order: str) -> str:
        """The name of the function that unpacks these codes."""
        name = f"unpack_{codes}" if order == "<" else f"unpack_big_{codes}"
        self.names[name] = struct.Struct(order + codes).unpack_from
        return name

    def text(self) -> str:
        """The whole source text."""
        return "\n".join(self.lines) + "\n"


class Image:
    """Writes the code that reads one row image into the variables ``<letter><ordinal>``.

    ``present`` and ``nullable`` are bit masks by ordinal. The code reads from the position ``p``
    and moves ``p`` to the end of the image.
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

    def write(self, source: SourceCode, indent: str) -> None:
        """Write the code, indented by ``indent``."""
        if not self.null_bits:
            self._run(source, indent, self.cells, f"{self.bitmap}x")
            return
        first = next(
            number for number, cell in enumerate(self.cells) if cell.ordinal in self.null_bits
        )
        leading, rest = self.cells[:first], self.cells[first:]
        self._bitmap(source, indent, leading)
        source.line(f"{indent}if nulls & {sum(self.null_bits.values())}:")
        self._with_nulls(source, indent + "    ", rest)
        source.line(f"{indent}else:")
        self._run(source, indent + "    ", rest)

    def _bitmap(self, source: SourceCode, indent: str, leading: Sequence[Cell]) -> None:
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

    def _with_nulls(self, source: SourceCode, indent: str, cells: Sequence[Cell]) -> None:
        """Read the cells of a row that has a NULL, stretch by stretch."""
        for stretch in self._stretches(cells):
            mask = sum(self.null_bits.get(cell.ordinal, 0) for cell in stretch)
            if not mask:
                self._run(source, indent, stretch)
                continue
            source.line(f"{indent}if nulls & {mask}:")
            if len(stretch) == 1:
                source.line(f"{indent}    {self.letter}{stretch[0].ordinal} = None")
            else:
                self._stretch_with_nulls(source, indent + "    ", stretch, mask)
            source.line(f"{indent}else:")
            self._run(source, indent + "    ", stretch)

    def _stretches(self, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
        """The cells in stretches, which end with a cell of variable size, or at ``_STRETCH``
        nullable cells.
        """
        stretch: list[Cell] = []
        nullable = 0
        for cell in cells:
            stretch.append(cell)
            nullable += cell.ordinal in self.null_bits
            if cell.prefix or nullable == _STRETCH:
                yield stretch
                stretch, nullable = [], 0
        if stretch:
            yield stretch

    def _stretch_with_nulls(
        self, source: SourceCode, indent: str, cells: Sequence[Cell], mask: int
    ) -> None:
        """Read a stretch with a NULL; ``mask`` has the null bits of its cells."""
        name = f"shapes_{self.letter}{cells[0].ordinal}"
        fields = [(self.null_bits.get(cell.ordinal, 0), *cell.stored()) for cell in cells]
        source.names[name] = _Shapes(fields)
        raws = [_raw_names(cell, f"{self.letter}{cell.ordinal}") for cell in cells]
        source.line(f"{indent}unpack, unpack_big, size = {name}[nulls & {mask}]")
        for order, function in (("<", "unpack"), (">", "unpack_big")):
            targets = [
                raw
                for cell, names in zip(cells, raws, strict=True)
                for raw in names
                if cell.stored()[0] == order
            ]
            if targets:
                source.line(f"{indent}{', '.join(targets)}, = {function}(data, p)")
        source.line(f"{indent}p += size")
        for cell, names in zip(cells, raws, strict=True):
            self._assign(source, indent, cell, names)

    def _assign(self, source: SourceCode, indent: str, cell: Cell, raws: list[str]) -> None:
        """Make a cell's value, which may be NULL, from the unpacked ``raws``."""
        variable, bit = f"{self.letter}{cell.ordinal}", self.null_bits.get(cell.ordinal)
        source.names.update(cell.names)
        if bit is not None and (cell.prefix or cell.value == "raw0"):
            source.line(f"{indent}if nulls & {bit}:")
            source.line(f"{indent}    {variable} = None")
            if not cell.prefix:
                return
            source.line(f"{indent}else:")
            indent += "    "
        if cell.prefix:
            length = _filled(SIZES[cell.prefix][1], raws)
            source.line(f"{indent}q = p")
            source.line(f"{indent}p = q + {length}")
            value = _filled(cell.value, ["data[q:p]"])
            source.line(f"{indent}{variable} = {value}", cell.ordinal)
        elif cell.value != "raw0":
            null = "" if bit is None else f"None if nulls & {bit} else "
            source.line(f"{indent}{variable} = {null}{_filled(cell.value, raws)}", cell.ordinal)

    def _run(
        self,
        source: SourceCode,
        indent: str,
        cells: Sequence[Cell],
        codes: str = "",
        targets: Sequence[str] = (),
    ) -> None:
        """Read cells that are not NULL; the first unpack begins with ``codes`` and ``targets``."""
        group = _Group(source, indent, codes, list(targets))
        for cell in cells:
            source.names.update(cell.names)
            group.add(cell, f"{self.letter}{cell.ordinal}")
        group.flush()


class _Shapes(dict[int, tuple[Any, Any, int]]):
    """Null bits of a stretch → its little-endian and big-endian ``unpack_from``, and its size.

    A cell that is NULL takes no bytes; the empty values that it unpacks to are not used.
    """

    def __init__(self, fields: Sequence[tuple[int, str, str]]) -> None:
        super().__init__()
        self._fields = fields

    def __missing__(self, nulls: int) -> tuple[Any, Any, int]:
        fields = [
            (order, "0s" * count_values(codes) if nulls & bit else codes)
            for bit, order, codes in self._fields
        ]
        both = [struct.Struct(order + _padded(fields, order)) for order in "<>"]
        shape = both[0].unpack_from, both[1].unpack_from, both[0].size
        self[nulls] = shape
        return shape


def _padded(fields: Sequence[tuple[str, str]], order: str) -> str:
    """The struct codes of one byte order, with pad bytes in place of the other's."""
    return "".join(
        codes if own == order else f"{packed_size(codes)}x" for own, codes in fields if codes
    )


class _Group:
    """Cells that are unpacked together, and the lines that make their values.

    ``codes`` and ``targets`` are struct codes and variables that come before the first cell.
    """

    def __init__(self, source: SourceCode, indent: str, codes: str, targets: list[str]) -> None:
        self.source, self.indent = source, indent
        self.fields = [("<", codes)]
        self.targets: dict[str, list[str]] = {"<": targets, ">": []}
        self.values: list[tuple[str, int]] = []

    def add(self, cell: Cell, variable: str) -> None:
        """Read ``cell`` into ``variable``; a cell of variable size ends the group."""
        order, codes = cell.stored()
        raw = _raw_names(cell, variable)
        self.fields.append((order, codes))
        self.targets[order] += raw
        if not cell.prefix:
            if cell.value != "raw0":
                self.values.append((f"{variable} = {_filled(cell.value, raw)}", cell.ordinal))
            return
        size = self._unpack()
        length = _filled(SIZES[cell.prefix][1], raw)
        self.source.line(f"{self.indent}q = p + {size}")
        self.source.line(f"{self.indent}p = q + {length}")
        self._write_values()
        value = _filled(cell.value, ["data[q:p]"])
        self.source.line(f"{self.indent}{variable} = {value}", cell.ordinal)

    def flush(self) -> None:
        """Write the code for the pending cells."""
        size = self._unpack()
        if size:
            self.source.line(f"{self.indent}p += {size}")
            self._write_values()

    def _unpack(self) -> int:
        """Write the unpack of the pending fields; return their size in bytes."""
        if "".join(codes for _, codes in self.fields) == "B":
            (target,) = self.targets["<"] + self.targets[">"]
            self.source.line(f"{self.indent}{target} = data[p]")
            return 1
        for order, targets in self.targets.items():
            if targets:
                function = self.source.unpack(_padded(self.fields, order), order)
                names = ", ".join(targets) + ("," if len(targets) == 1 else "")
                self.source.line(f"{self.indent}{names} = {function}(data, p)")
        return sum(packed_size(codes) for _, codes in self.fields)

    def _write_values(self) -> None:
        for text, ordinal in self.values:
            self.source.line(self.indent + text, ordinal)
        self.fields, self.targets, self.values = [], {"<": [], ">": []}, []


def _raw_names(cell: Cell, variable: str) -> list[str]:
    """The variables of the raw values: ``variable`` itself if the raw value is the value."""
    if not cell.prefix and cell.value == "raw0":
        return [variable]
    return [f"{variable}_{part}" for part in range(count_values(cell.stored()[1]))]


def _filled(expression: str, raws: Sequence[str]) -> str:
    """The expression with ``raws`` in place of ``raw0``, ``raw1``, …"""
    return _RAW.sub(lambda found: raws[int(found[1])], expression)
