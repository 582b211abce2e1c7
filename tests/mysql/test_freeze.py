"""What a cutover sees of the other sessions of the source, and what it may not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pymysql
import pytest

from engine.rights import HandoverRights
from sources.mysql.freeze import MySQLFreezer
from sources.mysql.source import MySQLSource
from tests.support.mysql_sessions import FreshDatabase, Writer, with_user
from tests.support.servers import AnyServer

USER, OTHER = "freezing_user", "other_user"


@pytest.fixture
def database(mysql_family: AnyServer, fresh_mysql_database: FreshDatabase) -> Iterator[Writer]:
    """A database with programs of each kind, another user, and one without rights."""
    writer = Writer(mysql_family, fresh_mysql_database(mysql_family))
    writer(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "CREATE VIEW v AS SELECT id FROM t",
        "CREATE TRIGGER trig BEFORE INSERT ON t FOR EACH ROW SET NEW.id = NEW.id",
        "CREATE FUNCTION two() RETURNS INT DETERMINISTIC RETURN 2",
        "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
    )
    for name in (USER, OTHER):
        writer(f"DROP USER IF EXISTS {name}@'%'", f"CREATE USER {name}@'%' IDENTIFIED BY 'x'")
    yield writer
    for name in (USER, OTHER):
        writer(f"DROP USER {name}@'%'")
    writer.connection.close()


def session_of(server: AnyServer, name: str) -> pymysql.Connection:
    return pymysql.connect(host=server.host, port=server.port, user=name, password="x")


def others(users: tuple[str, ...]) -> list[str]:
    """Of the users that are connected, the one of this test."""
    return [it for it in users if it.startswith(OTHER)]


def test_other_sessions_are_seen_only_with_the_right(database: Writer) -> None:
    settings = with_user(database.server, f"{USER}:x", tables=(f"{database.database}.*",))
    with closing(MySQLFreezer(settings)) as freezer, session_of(database.server, OTHER):
        before = freezer.newest_session()
        hidden = freezer.clients()
        assert others(hidden.users) == []
        assert "GRANT PROCESS ON *.* TO <user>" in hidden.hidden
        database(f"GRANT PROCESS ON *.* TO {USER}@'%'")
        freezer.close()  # the rights of a session are those of its beginning
        assert others(freezer.clients().users) == [f"{OTHER} (1)"]
        assert freezer.clients().hidden == ""
        with session_of(database.server, OTHER):
            assert others(freezer.clients().users) == [f"{OTHER} (2)"]
            assert others(freezer.clients(before).users) == [f"{OTHER} (1)"]
            assert others(freezer.clients(freezer.newest_session()).users) == [f"{OTHER} (2)"]


def test_a_cutover_needs_rights_that_are_printed(database: Writer) -> None:
    """GIVEN a user with the rights of a cutover alone THEN it can freeze, and sees the others."""
    settings = with_user(database.server, f"{USER}:x", tables=(f"{database.database}.*",))
    with closing(MySQLFreezer(settings)) as freezer, closing(MySQLSource(settings)) as source:
        assert "GRANT " in freezer.why_not()
        usual = source.grants()
        hook, own = (source.grants(HandoverRights(freezes=it)) for it in (False, True))
        more = [it.statement for it in own.grants if it not in usual.grants]
        assert len(more) == 3
        assert [it for it in hook.grants if it not in usual.grants] == own.grants[-3:-1]
        assert freezer.why_not().partition("GRANT ")[2].partition(" TO ")[0] in more[-1]
        database(*more)
        freezer.close()
        assert (freezer.why_not(), freezer.clients().hidden) == ("", "")


def test_programs_that_the_user_may_not_see_are_named(database: Writer) -> None:
    settings = with_user(database.server, f"{USER}:x", tables=(f"{database.database}.*",))
    name = database.database
    database(f"GRANT SELECT ON {name}.t TO {USER}@'%'")
    with closing(MySQLSource(settings)) as source:
        tables = source.catalog()
        found = source.structure(tables)
        kinds = [it.kind for it in found.hidden]
        assert sorted(kinds) == ["event", "function", "procedure", "trigger", "view"]
        assert {it.schema for it in found.hidden} == {name}
        assert found.programs == ()
        database(*(f"{it.grant} TO {USER}@'%'" for it in found.hidden))
    with closing(MySQLSource(settings)) as source:
        shown = source.structure(tables)
        assert shown.hidden == ()
        assert [it.kind for it in shown.programs] == ["event", "function", "trigger", "view"]
