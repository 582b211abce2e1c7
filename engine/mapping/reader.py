"""
The source's rows as a mapping makes them, for a comparison.

A comparison reads canonical texts (``engine.toolkit.canonical``). A column that the target has
unchanged stays as it is. The inputs of the others are converted to the form of a row tuple, mapped
by the code that the pipeline uses, and converted back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from engine.contract import RowReader, StoredText
from engine.mapping.changes import Mapping
from engine.mapping.runtime import RUNTIME
from engine.mapping.table import TableMapping
from engine.schema import Table, Type
from engine.toolkit.canonical import clock, interval_text, number_text
from engine.toolkit.codegen import compile_function

__all__ = ["MappedReader", "compared"]

_Key = tuple[str | None, ...]
_Text = tuple[str | None, ...]

_SECOND: Final = len("YYYY-MM-DD HH:MM:SS")
_FRACTION: Final = 6


def compared(mapping: Mapping, source: Table) -> Table:
    """The table by which both sides are compared. It has no key if the target's is masked, because
    a row of the target cannot be looked up on the source then.
    """
    found = mapping.of(source)
    if found is None:
        return source
    plain = set(found.places.values())
    if plain.issuperset(found.target.key):
        return found.target
    return msgspec.structs.replace(found.target, key=())


class MappedReader:
    """A ``RowReader`` of the source that shows its rows as those of the target's tables."""

    def __init__(self, reader: RowReader, mapping: Mapping) -> None:
        self._reader = reader
        self._mapping = mapping
        self._converts: dict[Table, Callable[[Sequence[_Text]], list[_Text]]] = {}

    def chunk(
        self, table: Table, after: _Key | None, limit: int, *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.chunk``. Rows that the target does not have are passed over."""
        found = self._of(table)
        if found is None:
            return self._reader.chunk(table, after, limit, keys_only=keys_only)
        source = found.source
        while rows := self._reader.chunk(source, after, limit):
            mapped = self._mapped(table, found, rows, keys_only)
            if mapped:
                return mapped
            after = tuple(rows[-1][ordinal] for ordinal in source.key)
        return []

    def by_keys(
        self, table: Table, keys: Sequence[_Key], *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.by_keys``."""
        found = self._of(table)
        if found is None:
            return self._reader.by_keys(table, keys, keys_only=keys_only)
        return self._mapped(table, found, self._reader.by_keys(found.source, keys), keys_only)

    def scan(self, table: Table) -> Iterator[list[_Text]]:
        """As ``RowReader.scan``."""
        found = self._of(table)
        if found is None:
            yield from self._reader.scan(table)
            return
        for rows in self._reader.scan(found.source):
            yield self._mapped(table, found, rows, keys_only=False)

    def count(self, table: Table) -> int:
        """As ``RowReader.count``."""
        found = self._of(table)
        if found is None or found.condition is None:
            return self._reader.count(table if found is None else found.source)
        return sum(map(len, self.scan(table)))

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """As ``RowReader.stored``, which is asked of targets alone."""
        return self._reader.stored(table)

    def close(self) -> None:
        """As ``RowReader.close``."""
        self._reader.close()

    def _of(self, table: Table) -> TableMapping | None:
        return self._mapping.of(table.sources[0]) if table.origins else None

    def _mapped(
        self, table: Table, mapping: TableMapping, rows: Sequence[_Text], keys_only: bool
    ) -> list[_Text]:
        if table not in self._converts:
            self._converts[table] = _compile(mapping)
        mapped = self._converts[table](rows)
        if keys_only:
            return [tuple(row[ordinal] for ordinal in table.key) for row in mapped]
        return mapped


def _compile(mapping: TableMapping) -> Callable[[Sequence[_Text]], list[_Text]]:
    """A function from canonical texts of the source to those of the target."""
    names: dict[str, object] = {**RUNTIME, **mapping.names}
    computed = [column for column in mapping.columns if not column.plain]
    inputs = {ordinal for column in computed for ordinal in column.inputs}
    if mapping.condition is not None:
        inputs |= mapping.condition.inputs
    lines = [
        "def convert(rows):",
        "    out = []",
        f"    for {''.join(f't{n}, ' for n in range(len(mapping.source.columns)))} in rows:",
    ]
    for ordinal in sorted(inputs):
        names[f"decode{ordinal}"] = _decoder(mapping.source.columns[ordinal].type)
        lines.append(
            f"        c{ordinal} = None if t{ordinal} is None else decode{ordinal}(t{ordinal})"
        )
    if mapping.condition is not None:
        lines += [f"        if not ({mapping.condition.code}):", "            continue"]
    values = []
    for place, column in enumerate(mapping.columns):
        if column.plain:
            values.append(f"t{column.source}")
        else:
            names[f"encode{place}"] = _encoder(column.column.type)
            values.append(
                f"None if (r{place} := {column.code}) is None else encode{place}(r{place})"
            )
    lines += [f"        out.append(({', '.join(values)},))", "    return out", ""]
    return compile_function("convert", "\n".join(lines), names)


def _decoder(type: Type) -> Callable[[str], object]:
    """A function from the canonical text of a value to its form in a row tuple."""
    kind, scale = type.kind, type.scale
    if ("int" in kind and kind != "interval") or kind == "bit":
        return int
    if kind == "decimal":
        return lambda text: _with_scale(text, scale)
    if kind in ("float32", "float64"):
        return float
    if kind in ("binary", "geometry"):
        return bytes.fromhex
    if kind == "boolean":
        return lambda text: text == "1"
    if kind in ("datetime", "timestamp"):
        end = _SECOND + (scale + 1 if scale else 0)
        return lambda text: text[:end]
    if kind in ("time", "interval"):
        cut = _FRACTION - scale if scale else _FRACTION + 1
        return lambda text: text[: len(text) - cut] if cut else text
    return str


def _with_scale(text: str, scale: int) -> str:
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<{scale}}" if scale else whole


def _encoder(type: Type) -> Callable[[object], str]:
    """A function from the form of a value in a row tuple to its canonical text."""
    convert = _ENCODERS.get(type.kind)
    if convert is None:
        return str
    return lambda value: convert(str(value))


_ENCODERS: Final[dict[str, Callable[[str], str]]] = {
    "decimal": number_text,
    "datetime": clock,
    "timestamp": clock,
    "time": interval_text,
    "interval": interval_text,
    "boolean": lambda text: "1" if text == "True" else "0",
}
