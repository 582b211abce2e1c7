"""
How busy a server is.
"""

from __future__ import annotations

from contextlib import closing

from engine.databases.mysql.connect import connect, query
from engine.log_status import TellsLoad
from sources.mysql.load import other_threads_running
from tests.support.busy_source import at_work
from tests.support.mysql_sessions import source_of, with_user
from tests.support.servers import AnyServer, connect_mysql
from tests.support.waiting import wait_until


def test_the_threads_of_others_are_counted(mysql_family: AnyServer) -> None:
    """An account without any right is enough."""
    with closing(connect_mysql(mysql_family, "")) as control:
        query(control, "CREATE USER nobody IDENTIFIED BY 'secret'")
        try:
            with closing(connect(with_user(mysql_family, "nobody:secret"))) as session:
                with at_work(mysql_family, 8):
                    # The log of the server is not sent, so one of them is taken for this thread.
                    assert other_threads_running(session) >= 7
                wait_until(lambda: other_threads_running(session) < 7)
        finally:
            query(control, "DROP USER nobody")


def test_neither_the_question_nor_the_log_is_counted(mysql_family: AnyServer) -> None:
    with (
        closing(source_of(mysql_family, "none")) as source,
        closing(source_of(mysql_family, "none")) as asking,
    ):
        assert isinstance(asking, TellsLoad)
        stream = source.stream(None, [])
        next(stream)
        # The server has threads of its own now and then.
        wait_until(lambda: asking.threads_running() <= 1)
        with at_work(mysql_family, 5):
            assert asking.threads_running() >= 5
