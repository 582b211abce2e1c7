"""
The source's rows as a mapping makes them, for a comparison.

A comparison reads canonical texts (``engine.toolkit.canonical``). A column that the target has
unchanged stays as it is. The inputs of the others are converted to the form of a row tuple, mapped
by the code that the pipeline uses, and converted back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from engine.contract import FiltersRows, RowReader, StoredText
from engine.mapping.changes import Mapping as TableMappings
from engine.mapping.runtime import RUNTIME
from engine.mapping.table import TableMapping
from engine.schema import Table, TableId, Type
from engine.toolkit.canonical import NamesReadPolicies, clock, interval_text, number_text
from engine.toolkit.checksums import Checksum, KeyRange, SumsRows
from engine.toolkit.codegen import compile_function
from engine.toolkit.row_limit import RowLimit
from engine.toolkit.sampling import SamplesKeys, batches

__all__ = [
    "MappedReader",
    "SharesReader",
    "compared",
    "decoder",
    "has_masked_key",
    "shares_of",
    "with_sources",
]

_Key = tuple[str | None, ...]
_Text = tuple[str | None, ...]

#: Keys of drawn rows that are looked up in one statement.
_LOOKED_UP: Final = 5000
_SECOND: Final = len("YYYY-MM-DD HH:MM:SS")
_FRACTION: Final = 6


def compared(mapping: TableMappings, sources: Sequence[Table]) -> dict[Table, list[Table]]:
    """The tables by which both sides are compared, each with those of the source.

    A table has no key if the target's is masked, because a row of the target cannot be looked up on
    the source then.
    """
    found: dict[Table, list[Table]] = {}
    for source in sources:
        own, target = mapping.of(source), mapping.now(source)
        if own is not None:
            plain = {own.columns[place].column.name for place in own.places.values()}
            plain |= {target.names[0]} if own.share else set()
            if not plain.issuperset(target.names[ordinal] for ordinal in target.key):
                target = msgspec.structs.replace(target, key=())
        found.setdefault(target, []).append(source)
    return found


def has_masked_key(table: Table) -> bool:
    """Whether a table by which both sides are compared has no key because a mask changes it."""
    return not table.key and any(source.key for source in table.sources)


def shares_of(table: Table) -> set[str]:
    """The shares of a merged table; empty if it is not merged."""
    return {it.share for it in table.origins if it.share}


def with_sources(target: Table, ids: Collection[TableId]) -> Table:
    """A table of the target with the rows of these tables of the source alone."""
    origins = tuple(it for it in target.origins if it.table.id in ids)
    return msgspec.structs.replace(target, origins=origins)


class _PlainSums(ABC):
    """``SumsRows`` for tables whose columns and rows are those of one table of the database."""

    _reader: RowReader

    @abstractmethod
    def _plain(self, table: Table) -> Table | None:
        """The table of the database, with these columns and this key; None if there is none."""

    def why_not_summed(self, table: Table) -> str:
        """As ``SumsRows.why_not_summed``."""
        plain = self._plain(table)
        if plain is None:
            return "a mapping makes its rows"
        if isinstance(self._reader, SumsRows):
            return self._reader.why_not_summed(plain)
        return "the database computes no checksums"

    def longest_text(self) -> int:
        """As ``SumsRows.longest_text``."""
        return self._sums.longest_text()

    def sum_range(self, table: Table, range: KeyRange, nulled: Collection[int] = ()) -> Checksum:
        """As ``SumsRows.sum_range``."""
        return self._sums.sum_range(self._plain(table) or table, range, nulled)

    def count_zeros(self, table: Table, range: KeyRange, columns: Collection[int]) -> list[int]:
        """As ``SumsRows.count_zeros``."""
        return self._sums.count_zeros(self._plain(table) or table, range, columns)

    def boundary(self, table: Table, range: KeyRange, rows: int) -> _Key | None:
        """As ``SumsRows.boundary``."""
        return self._sums.boundary(self._plain(table) or table, range, rows)

    def range_rows(self, table: Table, range: KeyRange) -> tuple[list[_Text], _Key | None]:
        """As ``SumsRows.range_rows``."""
        return self._sums.range_rows(self._plain(table) or table, range)

    def sum_parts(self, table: Table, nulled: Collection[int] = ()) -> dict[str, Checksum]:
        """As ``SumsRows.sum_parts``."""
        return self._sums.sum_parts(self._plain(table) or table, nulled)

    def part_rows(
        self, table: Table, parts: Collection[str], nulled: Collection[int] = ()
    ) -> Iterator[list[_Text]]:
        """As ``SumsRows.part_rows``."""
        return self._sums.part_rows(self._plain(table) or table, parts, nulled)

    @property
    def _sums(self) -> SumsRows:
        assert isinstance(self._reader, SumsRows)
        return self._reader


class SharesReader(_PlainSums):
    """A ``RowReader`` of the target that leaves out rows of merged tables: those of the shares in
    ``left``, whose tables are not compared. Rows of a share that no table has are shown.
    """

    def __init__(self, reader: RowReader, left: Mapping[Table, Collection[str]]) -> None:
        self._reader = reader
        self._left = {table: set(shares) for table, shares in left.items()}

    def learn(self, stored: Iterable[Table]) -> None:
        """Leave out the shares of tables that were merged with others during the comparison.
        ``stored`` are the tables of the target by now."""
        for target in stored if self._left else ():
            for table, left in self._left.items():
                if table.id == target.id:
                    left |= shares_of(target) - shares_of(table)

    def _plain(self, table: Table) -> Table | None:
        return None if shares_of(table) else table

    def chunk(
        self, table: Table, after: _Key | None, limit: int, *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.chunk``. Rows that are left out are passed over."""
        while rows := self._reader.chunk(table, after, limit, keys_only=keys_only):
            if shown := self._shown(table, rows):
                return shown
            after = rows[-1] if keys_only else _keys(table, rows[-1:])[0]
        return []

    def by_keys(
        self, table: Table, keys: Sequence[_Key], *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.by_keys``."""
        return self._shown(table, self._reader.by_keys(table, keys, keys_only=keys_only))

    def scan(self, table: Table) -> Iterator[list[_Text]]:
        """As ``RowReader.scan``."""
        for rows in self._reader.scan(table):
            yield self._shown(table, rows)

    def count(self, table: Table) -> int:
        """As ``RowReader.count``."""
        if self._left.get(table):
            return sum(map(len, self.scan(table)))
        return self._reader.count(table)

    def size(self, table: Table) -> int:
        """As ``SamplesKeys.size``. Rows that are left out are counted, too."""
        return _sampling(self._reader).size(table)

    def sample(self, table: Table, share: float) -> list[_Key]:
        """As ``SamplesKeys.sample``."""
        return self._shown(table, _sampling(self._reader).sample(table, share))

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """As ``RowReader.stored``."""
        return self._reader.stored(table)

    def close(self) -> None:
        """As ``RowReader.close``."""
        self._reader.close()

    def _shown(self, table: Table, rows: list[_Text]) -> list[_Text]:
        """The column of the shares is the first one of the table, and of its key."""
        left = self._left.get(table)
        return [row for row in rows if row[0] not in left] if left else rows


def _sampling(reader: RowReader) -> SamplesKeys:
    assert isinstance(reader, SamplesKeys)
    return reader


class _Part(NamedTuple):
    """A table of the source, and what maps its rows to those of the target's table."""

    mapping: TableMapping
    convert: Callable[[Sequence[_Text]], list[_Text]]


class MappedReader(_PlainSums):
    """A ``RowReader`` of the source that shows its rows as those of the target's tables."""

    def __init__(self, reader: RowReader, mapping: TableMappings) -> None:
        self._reader = reader
        self._mapping = mapping
        self._parts: dict[Table, list[_Part]] = {}

    def why_not_summed(self, table: Table) -> str:
        """As ``SumsRows.why_not_summed``."""
        if has_masked_key(table):
            return "its key is masked, so no row of the target can be looked up on the source"
        return super().why_not_summed(table)

    def chunk(
        self, table: Table, after: _Key | None, limit: int, *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.chunk``. Rows that the target does not have are passed over."""
        if not table.origins:
            return self._reader.chunk(table, after, limit, keys_only=keys_only)
        parts = self._parts_of(table)
        if after is not None and parts and parts[0].mapping.share:
            share, after = after[0] or "", after[1:]
            parts = [part for part in parts if part.mapping.share >= share]
            if not parts or parts[0].mapping.share != share:  # its table has left
                after = None
        for mapping, convert in parts:
            while rows := self._reader.chunk(mapping.source, after, limit):
                if mapped := convert(rows):
                    return _keys(table, mapped) if keys_only else mapped
                after = tuple(rows[-1][ordinal] for ordinal in mapping.source.key)
            after = None
        return []

    def by_keys(
        self, table: Table, keys: Sequence[_Key], *, keys_only: bool = False
    ) -> list[_Text]:
        """As ``RowReader.by_keys``."""
        if not table.origins:
            return self._reader.by_keys(table, keys, keys_only=keys_only)
        mapped: list[_Text] = []
        for mapping, convert in self._parts_of(table):
            wanted = keys
            if mapping.share:
                wanted = [key[1:] for key in keys if key[0] == mapping.share]
            mapped += convert(self._reader.by_keys(mapping.source, wanted)) if wanted else []
        return _keys(table, mapped) if keys_only else mapped

    def scan(self, table: Table) -> Iterator[list[_Text]]:
        """As ``RowReader.scan``."""
        if not table.origins:
            yield from self._reader.scan(table)
        for mapping, convert in self._parts_of(table) if table.origins else ():
            for rows in self._reader.scan(mapping.source):
                yield convert(rows)

    def count(self, table: Table) -> int:
        """As ``RowReader.count``."""
        return sum(map(len, self.scan(table))) if table.origins else self._reader.count(table)

    def size(self, table: Table) -> int:
        """As ``SamplesKeys.size``. Rows that the mapping leaves out are counted, too."""
        reader = _sampling(self._reader)
        if not table.origins:
            return reader.size(table)
        return sum(reader.size(part.mapping.source) for part in self._parts_of(table))

    def sample(self, table: Table, share: float) -> list[_Key]:
        """As ``SamplesKeys.sample``."""
        reader = _sampling(self._reader)
        if not table.origins:
            return reader.sample(table, share)
        found: list[_Key] = []
        for mapping, convert in self._parts_of(table):
            limit = RowLimit(_LOOKED_UP)
            for keys in batches(reader.sample(mapping.source, share), limit):
                rows, drawn = self._reader.by_keys(mapping.source, keys), set(keys)
                limit.add(rows)
                own = [row for row in rows if _keys(mapping.source, [row])[0] in drawn]
                found += _keys(table, convert(own))
        return found

    def stored(self, table: Table) -> Sequence[StoredText | None]:
        """As ``RowReader.stored``, which is asked of targets alone."""
        return self._reader.stored(table)

    def read_policies(self, table: Table) -> Sequence[str]:
        """As ``NamesReadPolicies.read_policies``. A column that is computed has none."""
        reader = self._reader
        if not isinstance(reader, NamesReadPolicies):
            return ("",) * len(table.columns)
        if not table.origins:
            return reader.read_policies(table)
        found: dict[str, str] = {}
        for mapping, _ in self._parts_of(table):
            policies = reader.read_policies(mapping.source)
            for column in mapping.columns:
                if column.plain and column.source is not None and policies[column.source]:
                    found[column.column.name] = policies[column.source]
        return [found.get(name, "") for name in table.names]

    def close(self) -> None:
        """As ``RowReader.close``."""
        self._reader.close()

    def _plain(self, table: Table) -> Table | None:
        if not table.origins:
            return table
        mappings = [part.mapping for part in self._parts_of(table)]
        if len(mappings) != 1 or mappings[0].share or mappings[0].condition is not None:
            return None
        (mapping,) = mappings
        sources = {column.column.name: column.source for column in mapping.columns if column.plain}
        ordinals = [it for it in map(sources.get, table.names) if it is not None]
        if len(set(ordinals)) < len(table.names):
            return None
        columns = tuple(mapping.source.columns[ordinal] for ordinal in ordinals)
        return msgspec.structs.replace(
            mapping.source, columns=columns, key=table.key, indexes=(), foreign_keys=()
        )

    def _parts_of(self, table: Table) -> list[_Part]:
        if table not in self._parts:
            mappings = [self._mapping.of(source) for source in table.sources]
            found = [_Part(it, _compile(it, table)) for it in mappings if it is not None]
            self._filter(found)
            self._parts[table] = sorted(found, key=lambda part: part.mapping.share)
        return self._parts[table]

    def _filter(self, parts: Sequence[_Part]) -> None:
        """Let the server leave out rows that the target does not have."""
        reader = self._reader
        if not isinstance(reader, FiltersRows):
            return
        for mapping, _ in parts:
            if mapping.row_filter is not None:
                reader.filter(mapping.source, mapping.row_filter)


def _keys(table: Table, rows: Sequence[_Text]) -> list[_Text]:
    return [tuple(row[ordinal] for ordinal in table.key) for row in rows]


def _compile(mapping: TableMapping, target: Table) -> Callable[[Sequence[_Text]], list[_Text]]:
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
        names[f"decode{ordinal}"] = decoder(mapping.source.columns[ordinal].type)
        lines.append(
            f"        c{ordinal} = None if t{ordinal} is None else decode{ordinal}(t{ordinal})"
        )
    if mapping.condition is not None:
        lines += [f"        if not ({mapping.condition.code}):", "            continue"]
    values = []
    columns = {column.column.name: column for column in mapping.columns}
    for place, name in enumerate(target.names):
        column = columns.get(name)
        if column is None:  # only other tables that are merged with this one have it
            values.append("None")
        elif column.plain:
            values.append(f"t{column.source}")
        else:
            names[f"encode{place}"] = _encoder(column.column.type)
            values.append(
                f"None if (r{place} := {column.code}) is None else encode{place}(r{place})"
            )
    lines += [f"        out.append(({', '.join(values)},))", "    return out", ""]
    return compile_function("convert", "\n".join(lines), names)


def decoder(type: Type) -> Callable[[str], object]:
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
