"""
GTID sets, MariaDB's GTID states, and positions.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.gtid import GtidSet as OtherGtidSet

from engine.errors import ConfigError
from sources.mysql.gtid import DomainState, GtidSet
from sources.mysql.position import MySQLPosition, file_number, parse_position

A = "aaaaaaaa-0000-0000-0000-000000000001"
B = "bbbbbbbb-0000-0000-0000-000000000002"

numbers = st.sets(st.integers(1, 40), max_size=25)


def gtid_set(numbers: set[int], source: str = A) -> GtidSet:
    result = GtidSet()
    for number in numbers:
        result = result.add(source, number, number)
    return result


def members(executed: GtidSet, source: str = A) -> set[int]:
    return {number for number in range(1, 50) if executed.contains(source, number)}


@given(numbers, numbers)
def test_a_gtid_set_is_a_set(one: set[int], two: set[int]) -> None:
    first, second = gtid_set(one), gtid_set(two)
    assert members(first) == one
    assert members(first.union(second)) == one | two
    assert members(first.minus(second)) == one - two
    assert first.includes(second) == (two <= one)
    assert GtidSet.parse(str(first)) == first
    assert bool(first) == bool(one)


@given(numbers)
def test_text_and_encoding_equal_those_of_mysql_replication(one: set[int]) -> None:
    ours = gtid_set(one)
    other = OtherGtidSet(str(ours))
    assert str(other) == str(ours)
    assert other.encoded() == ours.encode()


def test_the_servers_text_is_read() -> None:
    text = f"{A.upper()}:1-5:7,\n{B}:3"
    assert str(GtidSet.parse(text)) == f"{A}:1-5:7,{B}:3"
    assert str(GtidSet.parse("")) == ""


def test_each_tag_is_a_source_of_its_own() -> None:
    executed = GtidSet.parse(f"{A}:1-5:blue:1-2:9:red:4")
    assert executed.contains(f"{A}:blue", 9)
    assert not executed.contains(f"{A}:red", 9)
    assert not executed.contains(A, 9)
    assert GtidSet.parse(str(executed)) == executed


@pytest.mark.parametrize("text", ["nonsense", f"{A}:0", f"{A}:5-3", f"{A}:x y:1-", f"{A}:1--2"])
def test_a_text_that_is_not_a_gtid_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  UUID has its own message
        GtidSet.parse(text)


def test_a_domain_state_compares_sequence_numbers_not_servers() -> None:
    state = DomainState.parse("0-1-100,7-1-5")
    assert state.includes(DomainState.parse("0-2-99"))
    assert not state.includes(DomainState.parse("0-2-101"))
    assert not state.includes(DomainState.parse("8-1-1"))
    assert str(state.add(0, 2, 101)) == "0-2-101,7-1-5"
    assert str(state.before(DomainState.parse("0-1-50"))) == "0-1-50"


def test_a_position_can_be_parsed_from_its_text() -> None:
    executed = GtidSet.parse(f"{A}:1-5:9")
    position = MySQLPosition("s", "binlog.000007", 1 << 33, executed, A, 6, 8, {"X'61',X'',1": "?"})
    again = parse_position(str(position))
    assert str(again) == str(position)
    assert str(again.gtids) == f"{A}:1-9"
    assert again.prepared == position.prepared


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"server": "s", "gtid": "nonsense"}'])
def test_a_text_that_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_position(text)


def test_positions_with_gtids_are_compared_by_gtids() -> None:
    ahead_in_the_file = MySQLPosition("s", "b.000002", 900, GtidSet.parse(f"{A}:1-5"))
    target = MySQLPosition("s", "b.000002", 800, GtidSet.parse(f"{A}:1-6"))
    assert not ahead_in_the_file.at_or_after(target)
    assert target.at_or_after(ahead_in_the_file)
    elsewhere = MySQLPosition("t", "other.000001", 4, GtidSet.parse(f"{A}:1-6"))
    assert elsewhere.at_or_after(target)


def test_positions_without_gtids_are_compared_on_one_server_only() -> None:
    early, late = MySQLPosition("s", "b.000009", 900), MySQLPosition("s", "b.000010", 4)
    assert late.at_or_after(early)
    assert not early.at_or_after(late)
    assert not MySQLPosition("t", "b.000010", 4).at_or_after(early)


def test_a_prepared_xa_transaction_has_been_read_but_is_not_executed() -> None:
    place = {"X'61',X'',1": f"{A}:6"}
    position = MySQLPosition("s", "", 0, GtidSet.parse(f"{A}:1-5"), prepared=place)
    assert position.at_or_after(MySQLPosition("s", "", 0, GtidSet.parse(f"{A}:1-6")))
    assert str(position.gtids) == f"{A}:1-5"


def test_a_position_includes_a_transaction_by_its_gtid() -> None:
    executed = GtidSet.parse(f"{A}:1-5:7")
    position = MySQLPosition("s", "b.000002", 900, executed)
    start = MySQLPosition("s", "b.000002", 100, executed)
    assert position.contains(f"{A}:7", start)
    assert not position.contains(f"{A}:6", start)
    by_file = MySQLPosition("s", "b.000002", 100)
    assert position.contains("b.000002:100", by_file)
    assert not by_file.contains("b.000002:100", by_file)
    domain = MySQLPosition("s", "", 0, DomainState.parse("0-1-9"))
    assert domain.contains("0-3-9", domain)
    assert not domain.contains("1-3-9", domain)


@pytest.mark.parametrize(
    ("name", "number"), [("binlog.000010", 10), ("a.b.1234567", 1234567), ("x.idx", -1), ("", -1)]
)
def test_files_are_ordered_by_their_number(name: str, number: int) -> None:
    assert file_number(name) == number
