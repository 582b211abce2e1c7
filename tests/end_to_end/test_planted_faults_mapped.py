"""
A comparison finds the smallest faults in tables whose columns or keys are masked, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from engine.change import SchemaChange
from engine.mapping.changes import Mapping
from engine.mapping.reader import MappedReader, compared
from engine.settings.mapping import MaskSettings, TableRules
from engine.toolkit.sampling import SampleSize
from engine.verify.report import Difference, TableReport
from tests.support.servers import AnyServer
from tests.support.sides import Sides

MASKS = {"email": "hash", "phone": "digits", "name": "truncate(2)", "note": "redact"}
#: Ways to compare. The sample has all rows.
VARIANTS: Final[list[dict[str, Any]]] = [
    {},
    {"by_rows": True},
    {"chunk_rows": 1},
    {"sample": SampleSize(share=1 - 1e-12)},
]
#: The last character of a text becomes another one.
OTHER: Final = "left({0}, -1) || translate(right({0}, 1), '0123456789abcdef', '123456789abcdef0')"


class Masked:
    """A masked table on both sides; the target has what the mapping makes of the source's rows."""

    def __init__(self, sides: Sides, key: str, masks: dict[str, str]) -> None:
        self.sides = sides
        columns = "email VARCHAR(40), phone VARCHAR(20), name VARCHAR(20), note TEXT, v INT"
        source = sides.make("m", f"{key}, {columns}")
        rows = (
            f"('{n:04}', 'p{n}@example.org', '+41 79 {n:03}', 'Ada {n}', '{n}', {n})"
            for n in range(100)
        )
        sides.on_source(f"INSERT INTO m VALUES {', '.join(rows)}")
        mapping = Mapping({f"{sides.schema}.m": TableRules(mask=masks)}, MaskSettings("k"))
        mapping.targets([SchemaChange("", None, source)])
        sides.on_target("DROP TABLE m")
        target = sides.make_target(mapping.now(source))
        sides.source_reader = MappedReader(sides.source_reader, mapping)
        for some in sides.source_reader.scan(target):
            for row in some:
                sides.target.execute("INSERT INTO m VALUES (%s, %s, %s, %s, %s, %s)", row)
        (self.table,) = compared(mapping, [source])

    def compare(self, **options: Any) -> TableReport:
        return self.sides.compare(self.table, **options)


@pytest.fixture
def sides(mysql: AnyServer, new_sides: Callable[..., Sides]) -> Sides:
    return new_sides(mysql)


def test_faults_in_masked_columns_are_found(sides: Sides) -> None:
    masked = Masked(sides, "id INT PRIMARY KEY", MASKS)
    wrong = {
        "email": OTHER.format("email"),
        "phone": OTHER.format("phone"),
        "name": "'ad'",
        "note": "'9'",
        "v": "v + 1",
    }
    for id, (column, value) in enumerate(wrong.items()):
        sides.on_target(f"UPDATE m SET {column} = {value} WHERE id = {10 * id}")
    sides.on_target("UPDATE m SET phone = NULL WHERE id = 77", "DELETE FROM m WHERE id = 55")
    sides.on_target("INSERT INTO m (id) VALUES (100)")
    expected = {
        *(Difference("changed", (str(10 * n),), (column,)) for n, column in enumerate(wrong)),
        Difference("changed", ("77",), ("phone",)),
        Difference("missing", ("55",)),
        Difference("extra", ("100",)),
    }
    for options in VARIANTS:
        report = masked.compare(**options)
        assert set(report.differences) == expected, options
        assert (report.differing, report.missing, report.extra, report.hot) == (6, 1, 1, 0)


@pytest.mark.parametrize("mask", ["hash", "digits"])
def test_faults_in_a_table_with_a_masked_key_are_found(sides: Sides, mask: str) -> None:
    """Each changed row is one that is missing and one that is extra."""
    masked = Masked(sides, "id VARCHAR(9) PRIMARY KEY", {**MASKS, "id": mask})
    for options in VARIANTS:
        assert masked.compare(**options).equal, options
    ids = [key for (key,) in sides.target.execute("SELECT id FROM m ORDER BY id LIMIT 4")]
    last = OTHER.format("id")
    sides.on_target(
        f"UPDATE m SET id = {last} WHERE id = '{ids[0]}'",
        f"UPDATE m SET email = {OTHER.format('email')} WHERE id = '{ids[1]}'",
        f"UPDATE m SET v = v + 1 WHERE id = '{ids[2]}'",
        f"DELETE FROM m WHERE id = '{ids[3]}'",
        "INSERT INTO m (id) VALUES ('0000')",
    )
    for options in VARIANTS:
        report = masked.compare(**options)
        assert (report.missing, report.extra, report.hot) == (4, 4, 0), options
        assert (report.rows, report.target_rows, report.differences) == (100, 100, ())
        why = "its key is masked, so no row of the target can be looked up on the source"
        assert report.reason == ("" if options.get("by_rows") else why)
