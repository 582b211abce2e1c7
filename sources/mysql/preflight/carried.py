"""
What a mirror does not have: a list of what has to be created on the target before a cutover.

Tables, columns, keys, secondary indexes, NOT NULL and constant defaults are mirrored. The rest is
not needed while only the source is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.contract import Finding
from engine.schema import Column
from sources.mysql.codec.defaults import constant_default
from sources.mysql.preflight.context import Check, Context
from sources.mysql.structure import read_structure

__all__ = ["CARRIED_CHECKS"]

#: The kinds of programs in the list.
_PROGRAMS: Final = ("view", "trigger", "procedure", "function", "event")


def _carried(context: Context) -> Iterator[Finding]:
    columns = [column for table in context.tables for column in table.columns]
    counts = {
        "computed default": sum(map(_is_computed, columns)),
        "generated column": sum(column.generated for column in columns),
        "ENUM column": sum(column.type.kind == "enum" for column in columns),
    }
    structure = read_structure(context.session, context.tables)
    details = structure.tables.values()
    counts["AUTO_INCREMENT column"] = sum(bool(it.numbered) for it in details)
    counts["foreign key"] = sum(len(table.foreign_keys or ()) for table in context.tables)
    counts["check"] = sum(len(it.checks) for it in details)
    for kind in _PROGRAMS:
        counts[kind] = sum(program.kind == kind for program in structure.programs)
    found = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    if not found:
        return
    yield Finding(
        "warning",
        "not carried",
        f"the databases have {', '.join(found)}: the target does not get them, nor accounts and"
        " their rights",
        "`tailrace schema diff CONFIG` lists them, and `tailrace schema apply CONFIG` creates what"
        " can be said exactly: do so before the cutover",
        code="MY060",
    )


def _is_computed(column: Column) -> bool:
    if column.default is None or column.generated:
        return False
    try:
        constant_default(column)
    except ValueError:
        return True
    return False


#: The list of what is not mirrored.
CARRIED_CHECKS: Final[tuple[Check, ...]] = (_carried,)
