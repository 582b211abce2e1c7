"""Whether a stream that receives nothing has read the whole log."""

from __future__ import annotations

from engine.errors import SourceLost
from sources.mysql.log_watch import EndOfLog
from sources.mysql.position import MySQLPosition


def place(offset: int) -> MySQLPosition:
    return MySQLPosition("s", "binlog.000001", offset)


def test_a_pause_in_the_middle_of_a_backlog_is_not_its_end() -> None:
    """GIVEN a log that grows WHEN nothing is received for a moment THEN the server is asked for the
    end, unless the last transaction is new, or the end that is known is not reached.
    """
    ends = [200, 300, 300]
    asked: list[int] = []

    def ask() -> MySQLPosition:
        asked.append(ends[len(asked)])
        return place(asked[-1])

    last = EndOfLog(ask, place(100))
    assert last.reached(place(50), age_seconds=0.06)
    assert not last.reached(place(50), age_seconds=9.0)
    assert asked == []
    assert not last.reached(place(100), age_seconds=9.0)
    assert not last.reached(place(150), age_seconds=9.0)
    assert asked == [200]
    assert not last.reached(place(200), age_seconds=9.0)
    assert last.reached(place(300), age_seconds=9.0)
    assert asked == [200, 300, 300]


def test_a_server_that_cannot_be_asked_has_no_end() -> None:
    def ask() -> MySQLPosition:
        raise SourceLost("gone")

    assert not EndOfLog(ask, place(100)).reached(place(100), age_seconds=9.0)
