"""The words of a statement that `tailrace skip` shows: enough to know it, and no value of a row."""

from __future__ import annotations

import pytest

from sources.mysql.binlog.inspection import first_words


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (b"update orders set a = 1", ["UPDATE", "orders", "set"]),
        (b"ALTER TABLE orders ADD b INT", ["ALTER", "TABLE", "orders"]),
        (b"DROP TABLE `order 2`", ["DROP", "TABLE", "`order"]),
        (b"REPLACE t VALUES(1,'alice@example.com')", ["REPLACE", "t", "VALUES"]),
        (b"CALL p('secret')", ["CALL", "p"]),
        (b"SET @a='secret'", ["SET"]),
        (b"SET x=secret", ["SET", "x"]),
        (b"KILL 4711", ["KILL"]),
        (b"DELETE t3", ["DELETE", "t3"]),
        (b"DO -12.5", ["DO"]),
        (b"'secret'", []),
        (b"", []),
    ],
)
def test_no_value_is_shown(statement: bytes, words: list[str]) -> None:
    assert first_words(statement) == words
