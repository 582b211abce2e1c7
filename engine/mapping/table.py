"""
The mapping of one version of one source table, compiled.

The rows are converted by a generated function. For ``select = "id, price * 2 AS twice"`` and
``where = "state = 1"`` it is::

    def convert(rows):
        out = []
        append = out.append
        for c0, c1, c2 in rows:
            if c2 == 1:
                append((c0, fixed_text(c1 * 2, 2)))
        return out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final

import msgspec

from engine.change import TWIN_PREFIX, Row, Rows
from engine.contract import RowFilter
from engine.errors import ApplyError, ConfigError, SchemaError
from engine.mapping.generation import Generator
from engine.mapping.mapped_column import MappedColumn
from engine.mapping.masks import key_digest
from engine.mapping.runtime import RUNTIME, Broken, OutOfRange
from engine.schema import Column, Index, Origin, Table, TableId, Type
from engine.settings.mapping import TableRules
from engine.toolkit.codegen import compile_function

__all__ = ["TableMapping", "own_id"]

_SHARE_TYPE: Final = "varchar(255) character set utf8mb4 collate utf8mb4_bin"
#: A column of a merged table that the source's table does not have.
_ABSENT: Final = MappedColumn(Column("", Type("text"), ""), "None", frozenset())

_Convert = Callable[[Sequence[Row]], list[Row]]
_Test = Callable[[Sequence[Row]], list[bool]]
#: The target's table, the bit mask of the source's columns, and whether the rows are new.
_Kind = tuple[Table, int | None, bool]


class TableMapping:
    """What becomes of the rows of ``source``. ``target`` is the table of the target.

    Raises ConfigError if the rules do not fit the table.
    """

    def __init__(self, source: Table, rules: TableRules, mask_key: str) -> None:
        # It needs sqlglot, whose import takes time.
        from engine.mapping.columns import (
            compile_assertions,
            compile_columns,
            compile_condition,
        )
        from engine.mapping.pushdown import row_filter

        self.source = source
        generator = Generator()
        self.columns = compile_columns(source, rules, generator, mask_key)
        #: The text that tells the rows of a merged table apart; empty if it is not merged.
        self.share = ""
        for name, kind in rules.merge.items():
            self.share = _share(source, kind)
            self.columns = [_share_column(source, name, self), *map(_stored, self.columns)]
        self.condition = compile_condition(source, rules, generator)
        #: The rows that a read may leave out.
        self.row_filter: RowFilter | None = None
        if self.condition is not None:
            self.row_filter = row_filter(source, rules.where, self.condition)
        self.assertions = compile_assertions(source, rules, generator)
        #: The constants that the code of the columns and the condition needs.
        self.names = generator.names
        self.fingerprint = _fingerprint(rules, mask_key)
        #: By the ordinal of a column of the source: that of the target with the same value.
        self.places = {
            column.source: place
            for place, column in enumerate(self.columns)
            if column.source is not None and column.plain
        }
        self.target = self._target(rules)
        self._converts: dict[_Kind, tuple[_Convert, int | None]] = {}
        self._tests: dict[int | None, _Test] = {}

    def rows(self, rows: Rows, target: Table) -> Iterator[Rows]:
        """The changes of rows of ``target`` that follow from those of the source, in order.

        ``target`` may have more columns, and in another order, if several tables are merged.
        """
        try:
            yield from self._rows(rows, target)
        except OutOfRange as error:
            raise ApplyError(
                f"an expression of the mapping cannot be evaluated: {error}",
                hint="correct the row on the source, or the mapping",
                table=own_id(self.source.id),
            ) from error
        except Broken as error:
            text, _ = self.assertions[error.args[0]]
            raise ApplyError(
                f"a row breaks the rule of the mapping: assert {text!r}",
                hint="correct the row on the source, or the rule",
                table=own_id(self.source.id),
            ) from error

    def _rows(self, rows: Rows, target: Table) -> Iterator[Rows]:
        if self.condition is not None and rows.op == "update":
            for op, before, after in self._crossings(rows):
                yield self._converted(rows, target, op, before, after)
            return
        before, after = rows.before, rows.after
        if self.condition is not None:
            if after is not None:
                after = self._kept(after, rows.after_present)
            elif before is not None:
                before = self._kept(before, rows.before_present)
        if before or after:
            yield self._converted(rows, target, rows.op, before, after)

    def _converted(
        self, rows: Rows, target: Table, op: str, before: list[Row] | None, after: list[Row] | None
    ) -> Rows:
        old = new = None
        before_present, after_present = rows.before_present, rows.after_present
        if before is not None:
            convert, before_present = self._convert(target, before_present, new=False)
            old = convert(before)
        if after is not None:
            convert, after_present = self._convert(target, after_present, new=True)
            new = convert(after)
        return Rows(target, op, old, new, before_present, after_present, rows.size)  # type: ignore[arg-type]

    def _crossings(self, rows: Rows) -> Iterator[tuple[str, list[Row] | None, list[Row] | None]]:
        """Updates in order, as inserts or deletes where rows cross the filter."""
        assert rows.before is not None
        assert rows.after is not None
        was = self._test(rows.before_present)(rows.before)
        now = self._test(rows.after_present)(rows.after)
        pairs = zip(was, now, rows.before, rows.after, strict=True)
        for (old, new), group in groupby(pairs, lambda pair: pair[:2]):
            part = list(group)
            before, after = [pair[2] for pair in part], [pair[3] for pair in part]
            if old and new:
                yield "update", before, after
            elif old:
                yield "delete", before, None
            elif new and rows.after_present is None:
                yield "insert", None, after
            elif new:
                raise self._partial("a row comes to fulfil where")

    def _kept(self, rows: list[Row], present: int | None) -> list[Row]:
        return [row for row, kept in zip(rows, self._test(present)(rows), strict=True) if kept]

    # -- generated functions -----------------------------------------------------------------------

    def _test(self, present: int | None) -> _Test:
        """A function that tells which rows the target has."""
        if present not in self._tests:
            assert self.condition is not None
            if not _has_all(present, self.condition.inputs):
                raise self._partial("where needs columns")
            body = f"    return [{self.condition.code} for {self._names()} in rows]\n"
            self._tests[present] = self._compile("test", body)
        return self._tests[present]

    def _convert(
        self, target: Table, present: int | None, *, new: bool
    ) -> tuple[_Convert, int | None]:
        """A function for rows with these columns of the source, and those that the results have.

        ``new``: the rows must fulfil the assertions.
        """
        new = new and bool(self.assertions)
        kind = target, present, new
        if kind not in self._converts:
            self._converts[kind] = self._compile_convert(*kind)
        return self._converts[kind]

    def _compile_convert(
        self, target: Table, present: int | None, new: bool
    ) -> tuple[_Convert, int | None]:
        values: list[str] = []
        result = 0
        columns = {column.column.name: column for column in self.columns}
        for place, name in enumerate(target.names):
            column = columns.get(name, _ABSENT)
            if _has_all(present, column.inputs):
                result |= 1 << place
                values.append(column.code)
            elif _has_any(present, column.inputs):
                raise self._partial(f"the column {column.column.name} needs columns")
            else:
                values.append("None")
        body = (
            "    out = []\n    append = out.append\n"
            f"    for {self._names()} in rows:\n{self._checks(present) if new else ''}"
            f"        append(({', '.join(values)},))\n"
            "    return out\n"
        )
        return self._compile("convert", body), None if present is None else result

    def _checks(self, present: int | None) -> str:
        """The code of the assertions. One is left out if the row does not have its columns, because
        they have not changed.
        """
        lines = ""
        for number, (_, condition) in enumerate(self.assertions):
            if _has_all(present, condition.inputs):
                lines += f"        if not ({condition.code}):\n            raise Broken({number})\n"
            elif _has_any(present, condition.inputs):
                raise self._partial("assert needs columns")
        return lines

    def _compile(self, name: str, body: str) -> Callable[..., list[Any]]:
        source = f"def {name}(rows):\n{body}"
        return compile_function(name, source, {**RUNTIME, **self.names})

    def _names(self) -> str:
        return "".join(f"c{n}, " for n in range(len(self.source.columns)))

    def _partial(self, what: str) -> SchemaError:
        return SchemaError(
            f"{what} that the log does not contain, because row images are partial",
            hint="set binlog_row_image = FULL on the source",
            table=own_id(self.source.id),
        )

    # -- the target --------------------------------------------------------------------------------

    def _target(self, rules: TableRules) -> Table:
        source = self.source
        carried = {
            column.source: place
            for place, column in reversed(list(enumerate(self.columns)))
            if column.source is not None
        }
        for ordinal in source.key:
            if ordinal not in carried:
                name = source.columns[ordinal].name
                raise ConfigError(
                    f'mapping."{source.id}": the key column {name} is not carried',
                    hint=f"select {name}, renamed or masked by hash or digits if need be, so that"
                    " rows can be found on the target",
                    table=source.id,
                )
        indexes = tuple(
            Index(index.name, tuple(carried[n] for n in index.columns), index.unique, index.prefix)
            for index in source.indexes
            if all(n in carried for n in index.columns)
        )
        key = tuple(carried[ordinal] for ordinal in source.key)
        if self.share:
            # While a share is backfilled, its rows may have the same unique value for a moment.
            indexes = tuple(msgspec.structs.replace(index, unique=False) for index in indexes)
            key = (0, *key)
        return Table(
            _target_id(source.id, rules),
            tuple(column.column for column in self.columns),
            key,
            indexes,
            source.version,
            source.default_charset,
            # A sink has to know that there are some. A ``Cascade`` has those of the target.
            None if self.share else source.foreign_keys,
            origins=(Origin(source, self.fingerprint, self.share),),
        )


def own_id(id: TableId) -> TableId:
    """The name of a table, which may be a twin's."""
    return TableId(id.schema, id.name.removeprefix(TWIN_PREFIX))


def _target_id(id: TableId, rules: TableRules) -> TableId:
    own = own_id(id)
    twin = TWIN_PREFIX if own != id else ""
    if twin and rules.merge:  # several tables may have twins at the same time
        twin += f"@{blake2b(str(own).encode(), digest_size=4).hexdigest()}@"
    schema, _, name = (rules.to or "*.*").partition(".")
    return TableId(schema.replace("*", own.schema), twin + name.replace("*", own.name))


def _share(source: Table, kind: str) -> str:
    own = own_id(source.id)
    return {"schema": own.schema, "table": own.name, "schema.table": str(own)}[kind]


def _share_column(source: Table, name: str, mapping: TableMapping) -> MappedColumn:
    if not source.key or any(it.column.name == name for it in mapping.columns):
        problem = "the table has no key" if not source.key else "the table has this column"
        raise ConfigError(
            f'mapping."{source.id}".merge: {problem}, so its rows cannot be told apart by {name}',
            hint="leave the table out, or name another column",
            table=source.id,
        )
    column = Column(name, Type("text"), _SHARE_TYPE, nullable=False)
    return MappedColumn(column, repr(mapping.share), frozenset())


def _stored(column: MappedColumn) -> MappedColumn:
    """A column whose value comes from the source in every row: other rows need another one."""
    stored = msgspec.structs.replace(column.column, default=None, generated=False, expression=None)
    return column._replace(column=stored)


def _fingerprint(rules: TableRules, mask_key: str) -> str:
    """A text that differs if the rows may differ."""
    rules = msgspec.structs.replace(rules, assert_=())  # no row depends on it
    keyed = any(mask in ("hash", "digits") for mask in rules.mask.values())
    text = msgspec.json.encode([rules, key_digest(mask_key) if keyed else ""], order="sorted")
    return blake2b(text, digest_size=8).hexdigest()


def _has_all(present: int | None, inputs: frozenset[int]) -> bool:
    return present is None or all(present >> n & 1 for n in inputs)


def _has_any(present: int | None, inputs: frozenset[int]) -> bool:
    return present is None or any(present >> n & 1 for n in inputs)
