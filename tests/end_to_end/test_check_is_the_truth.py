"""
`tailrace check` and the first seconds of `tailrace run` agree, on set-ups that are broken in one
way each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from engine.cli.main import main
from engine.databases.mysql.connect import query
from engine.sandbox import start_postgres
from tests.support.global_variables import set_globally
from tests.support.servers import AnyServer, connect_mysql, obtain

#: An unused port, and a host that cannot exist (RFC 6761).
PORT, HOST = 1, "nowhere.invalid"
#: The rights that a pipeline needs on the source, with those of one database.
GLOBAL = ("REPLICATION SLAVE", "REPLICATION CLIENT")
LOCAL = ("SELECT", "LOCK TABLES", "TRIGGER", "SHOW VIEW")


class Setup(NamedTuple):
    """A broken set-up.

    ``source`` and ``target`` are executed on the servers, with the database's name as ``{d}``;
    ``variables`` are set globally on the source. ``lacks``: a right that the user does not have.
    ``account``: what ALTER USER says of the source's user.
    The others replace a part of the configuration. ``code`` is the finding that names the fault;
    if it is empty, the configuration is refused before the databases are asked.
    """

    code: str
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    lacks: str = ""
    account: str = ""
    source_url: Callable[[str], str] = lambda url: url
    target_url: Callable[[str], str] = lambda url: url
    tables: str = "{d}.*"
    more_source: str = ""
    more_sink: str = ""
    more: str = ""
    #: Whether the table is followed nevertheless, and ``check`` only warns.
    starts: bool = False


def port(url: str) -> str:
    """The URL with a port on which nobody listens."""
    before, _, rest = url.rpartition(":")
    return f"{before}:{PORT}/{rest.partition('/')[2]}"


def host(url: str) -> str:
    return url.replace("127.0.0.1", HOST)


def user(name: str) -> Callable[[str], str]:
    """The URL with another user."""
    return lambda url: f"{url.partition('://')[0]}://{name}@{url.rpartition('@')[2]}"


def role(name: str, *grants: str) -> tuple[str, ...]:
    """Statements that make a role with a right to connect only."""
    return (f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN", *grants)


TAKEN = "CREATE SCHEMA {d}"
REFUSE = (
    "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF tg_tag = 'CREATE TABLE' THEN RAISE 'no tables here'; END IF; END $$"
)
MAY_CREATE = "GRANT CREATE ON DATABASE {t} TO tailrace_guest"
KEYLESS = "CREATE TABLE {d}.log (a int, b int)"

SETUPS = {
    "a wrong password of the source": Setup("CK001", source_url=user("tailrace_one:wrong")),
    "an unknown user of the source": Setup("CK001", source_url=user("tailrace_nobody")),
    "a closed port of the source": Setup("CK001", source_url=port),
    "an unknown host of the source": Setup("CK001", source_url=host),
    "statements in the log": Setup("MY003", variables=(("binlog_format", "STATEMENT"),)),
    "statements and rows in the log": Setup("MY003", variables=(("binlog_format", "MIXED"),)),
    "a pattern without a table": Setup("MY030", tables="{d}.typo"),
    "a pattern without a database": Setup("MY030", tables="typo_{d}.*"),
    "all tables excluded": Setup("MY030", more_source='exclude = ["{d}.*"]'),
    "no right to read the log": Setup("MY021", lacks="REPLICATION SLAVE"),
    "no right to ask for the log's end": Setup("MY020", lacks="REPLICATION CLIENT"),
    "no right to read tables": Setup("MY030", lacks="SELECT"),
    "no right to lock a keyless table": Setup("MY026", source=(KEYLESS,), lacks="LOCK TABLES"),
    "an untrusted certificate": Setup("CK001", more_source='tls = "verify-ca"\ntls_ca = "{ca}"'),
    "no file of authorities": Setup("CK001", more_source='tls = "verify-ca"\ntls_ca = "/no.pem"'),
    "no authorities": Setup("CK001", more_source='tls = "verify-full"'),
    "a raw # in a password": Setup("CK001", source_url=user("root:a#b")),
    "a raw / in a password": Setup("CK001", source_url=user("root:a/b")),
    "a pattern without a dot": Setup("CK001", tables="orders"),
    "an unknown key": Setup("", more_source="tabels = []"),
    "an unknown variable": Setup("", source_url=user("root:${TAILRACE_NOT_SET_ANYWHERE}")),
    "an unknown kind of source": Setup("", source_url=lambda url: "oracle://h/"),
    "an unknown kind of sink": Setup("", target_url=lambda url: "oracle://h/"),
    "an unknown role of the target": Setup("CK002", target_url=user("tailrace_nobody")),
    "an unknown database of the target": Setup("CK002", target_url=lambda url: url + "_no"),
    "a closed port of the target": Setup("CK002", target_url=port),
    "an unknown host of the target": Setup("CK002", target_url=host),
    "a target URL that cannot be read": Setup("", target_url=lambda url: "postgresql://[x"),
    "a raw @ in the target's password": Setup("", target_url=user("a:b/@c")),
    "no right to create a schema": Setup(
        "PG006", target=role("tailrace_guest"), target_url=user("tailrace_guest")
    ),
    "no right to create temporary tables": Setup(
        "PG005",
        target=role(
            "tailrace_guest",
            "REVOKE TEMPORARY ON DATABASE {t} FROM PUBLIC",
            "GRANT CREATE ON DATABASE {t} TO tailrace_guest",
        ),
        target_url=user("tailrace_guest"),
    ),
    "a table with other columns": Setup("PG010", target=(TAKEN, "CREATE TABLE {d}.t (x int)")),
    "a table with rows": Setup(
        "PG010",
        target=(
            TAKEN,
            "CREATE TABLE {d}.t (id integer NOT NULL PRIMARY KEY, v character varying(9))",
            "INSERT INTO {d}.t VALUES (1)",
        ),
    ),
    "a view": Setup(
        "PG010", target=(TAKEN, "CREATE VIEW {d}.t AS SELECT 1 AS id, 'x'::varchar(9) AS v")
    ),
    "another role's table": Setup(
        "PG010",
        target=(
            *role("tailrace_guest", "GRANT CREATE ON DATABASE {t} TO tailrace_guest"),
            "CREATE SCHEMA {d}",
            "GRANT ALL ON SCHEMA {d} TO tailrace_guest",
            "CREATE TABLE {d}.t (id integer NOT NULL PRIMARY KEY, v character varying(9))",
            "GRANT ALL ON {d}.t TO tailrace_guest",
        ),
        target_url=user("tailrace_guest"),
    ),
    "two tables in one place": Setup(
        "PG011",
        source=("CREATE DATABASE {d}_2", "CREATE TABLE {d}_2.t (id int PRIMARY KEY)"),
        tables="{d}*.t",
        more_sink='schema = "both"',
    ),
    "a reserved schema": Setup("PG012", more_sink='schema = "pg_mine"'),
    "a file that cannot be written": Setup(
        "JL001", target_url=lambda url: "jsonl:/dev/null/out.jsonl"
    ),
    "a type": Setup("PG010", target=(TAKEN, "CREATE TYPE {d}.t AS ENUM ('a')")),
    "row-level security": Setup(
        "PG010",
        target=(
            *role("tailrace_guest", MAY_CREATE),
            "CREATE SCHEMA {d} AUTHORIZATION tailrace_guest",
            "CREATE TABLE {d}.t (id integer NOT NULL PRIMARY KEY, v character varying(9))",
            "ALTER TABLE {d}.t OWNER TO tailrace_guest",
            "ALTER TABLE {d}.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE {d}.t FORCE ROW LEVEL SECURITY",
        ),
        target_url=user("tailrace_guest"),
    ),
    "an event trigger": Setup(
        "PG024",
        target=(
            *role("tailrace_guest", MAY_CREATE),
            REFUSE,
            "CREATE EVENT TRIGGER tailrace_no ON ddl_command_start EXECUTE FUNCTION refuse()",
        ),
        target_url=user("tailrace_guest"),
    ),
    "another role's schema": Setup(
        "PG006",
        target=(*role("tailrace_guest", MAY_CREATE), TAKEN),
        target_url=user("tailrace_guest"),
    ),
    "no session left on the target": Setup(
        "CK002",
        target=role("tailrace_guest", "ALTER ROLE tailrace_guest CONNECTION LIMIT 0"),
        target_url=user("tailrace_guest"),
    ),
    "a target without TLS": Setup("CK002", target_url=lambda url: f"{url}?sslmode=require"),
    "a target that is read-only by default": Setup(
        "MY004",
        target=("ALTER DATABASE {t} SET default_transaction_read_only = on",),
        variables=(("binlog_row_image", "MINIMAL"),),
        starts=True,
    ),
    "few sessions on the source": Setup("MY027", account="WITH MAX_USER_CONNECTIONS 3"),
    "one session on the source": Setup("MY027", account="WITH MAX_USER_CONNECTIONS 1"),
    "an expired password": Setup("CK001", account="PASSWORD EXPIRE"),
    "a locked account": Setup("CK001", account="ACCOUNT LOCK"),
    "an account with TLS only": Setup(
        "CK001", account="REQUIRE SSL", more_source='tls = "disable"'
    ),
    "the source's own server_id": Setup("MY021", more_source="server_id = {server_id}"),
    "parts of documents": Setup(
        "MY005",
        variables=(
            ("binlog_row_image", "MINIMAL"),
            ("binlog_row_value_options", "PARTIAL_JSON"),
        ),
        starts=True,
    ),
    "a mask without a key": Setup("CK006", more='[mapping."{d}.t"]\nmask = {{ v = "hash" }}'),
    "an address without a host": Setup("CK009", more='[api]\nlisten = "9187"'),
    "an address that is taken": Setup("CK009", more='[api]\nlisten = "{taken}"'),
    "an address without protection": Setup("CK009", more='[api]\nlisten = "0.0.0.0:0"'),
    "nothing": Setup("MY004", variables=(("binlog_row_image", "MINIMAL"),), starts=True),
}


def server_id(server: AnyServer) -> str:
    with connect_mysql(server) as connection:
        return str(query(connection, "SELECT @@GLOBAL.server_id")[0][0])


@contextmanager
def prepared(
    server: AnyServer, database: str, target: str, setup: Setup, folder: Path
) -> Iterator[Path]:
    """Make the set-up. The block gets the path of its configuration."""
    names = {
        "d": database,
        "t": target.rpartition("/")[2],
        "ca": str(folder / "ca.pem"),
        "taken": f"{server.host}:{server.port}",
        "server_id": server_id(server),
    }
    (folder / "ca.pem").write_text(OTHER_CA)
    with connect_mysql(server) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {database}.t (id int PRIMARY KEY, v varchar(9))")
        for statement in setup.source:
            cursor.execute(statement.format(**names))
        cursor.execute("CREATE USER tailrace_one@'%' IDENTIFIED BY 'right'")
        try:
            for rights, place in ((GLOBAL, "*.*"), (LOCAL, f"`{database}%`.*")):
                given = ", ".join(right for right in rights if right != setup.lacks)
                cursor.execute(f"GRANT {given} ON {place} TO tailrace_one@'%'")
            if setup.account:
                cursor.execute(f"ALTER USER tailrace_one@'%' {setup.account}")
            with psycopg.connect(target, autocommit=True) as there:
                for statement in setup.target:
                    there.execute(statement.format(**names).encode())
            limited = setup.lacks or setup.account
            source_url = user("tailrace_one:right")(server.url) if limited else server.url
            path = folder / "mirror.toml"
            path.write_text(
                f'[source]\nurl = "{setup.source_url(source_url)}"\n'
                f'tables = ["{setup.tables.format(**names)}"]\n'
                f"{setup.more_source.format(**names)}\n"
                f'[sink]\nurl = "{setup.target_url(target)}"\n{setup.more_sink}\n'
                "[retry]\ngive_up_seconds = 0.5\nfirst_seconds = 0.1\n"
                f"{setup.more.format(**names)}\n"
            )
            with set_globally(server, dict(setup.variables)):
                yield path
        finally:
            cursor.execute("DROP USER tailrace_one@'%'")
            cursor.execute(f"DROP DATABASE IF EXISTS {database}_2")
            with psycopg.connect(target, autocommit=True) as there:
                there.execute(b"SET default_transaction_read_only = off")
                there.execute(f"ALTER DATABASE {names['t']} RESET ALL".encode())
                there.execute(b"DROP EVENT TRIGGER IF EXISTS tailrace_no")
                there.execute(
                    b"DO $$ BEGIN IF to_regrole('tailrace_guest') IS NOT NULL THEN"
                    b" DROP OWNED BY tailrace_guest; DROP ROLE tailrace_guest; END IF; END $$"
                )


@pytest.mark.parametrize("name", SETUPS)
def test_check_and_run_agree(
    mysql: AnyServer,
    source_database: str,
    target_database: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    setup = SETUPS[name]
    with prepared(mysql, source_database, target_database, setup, tmp_path) as config:
        checked = main(["check", str(config), "--json"])
        found = json.loads(capfd.readouterr().out)
        ran = main(["run", str(config), "--until-caught-up", "--log-format", "json"])
        said = capfd.readouterr().err
    assert checked == ran, (found, said)
    assert (checked == 0) is setup.starts
    if setup.code:
        level = "warning" if setup.starts else "error"
        codes = {each["code"] for each in found if each["level"] == level}
        assert setup.code in codes, found
        remedies = [each["action"] for each in found if each["code"] == setup.code]
        assert all(remedies)
        assert "tailrace check" not in " ".join(remedies)
    else:
        assert found["error"]["hint"]


def test_check_and_run_agree_about_a_standby(
    mysql: AnyServer,
    source_database: str,
    target_database: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with obtain(start_postgres) as target:
        target.shutdown()
        folder = target.layout.data
        (folder / "standby.signal").touch()
        shutil.chown(folder / "standby.signal", folder.owner(), folder.group())
        target.start()
        setup = Setup("PG023", target_url=lambda _: target.url)
        with prepared(mysql, source_database, target_database, setup, tmp_path) as config:
            checked = main(["check", str(config), "--json"])
            found = json.loads(capfd.readouterr().out)
            ran = main(["run", str(config), "--until-caught-up", "--log-format", "json"])
            said = capfd.readouterr().err
    assert (checked, ran) == (1, 1), (found, said)
    assert "PG023" in {each["code"] for each in found if each["level"] == "error"}
    assert "Point [sink] url at its primary" in said


#: The certificate of an authority that has signed nothing.
OTHER_CA = """\
-----BEGIN CERTIFICATE-----
MIIBjjCCATWgAwIBAgIUSjxlAENKAXS91iqFZ34PMdqRmcUwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRQW5vdGhlciBhdXRob3JpdHkwIBcNMjYxMTIyMDEzMjI0WhgP
MjEyNjEwMjkwMTMyMjRaMBwxGjAYBgNVBAMMEUFub3RoZXIgYXV0aG9yaXR5MFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy6tm1M5dTqGgNre6cAwgsXKgPtDOJsDJ
omzUa0Vy0z+CoHs4uul7Novbs7k7XpcB0c8DmVfg7R9B3gQlM3FMDaNTMFEwHQYD
VR0OBBYEFICkYzc07l5RWUYMyXf4lECS8XDYMB8GA1UdIwQYMBaAFICkYzc07l5R
WUYMyXf4lECS8XDYMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIg
asnugad9bi6vz26fE4fSEuwtiOL6Pfp6X0B1uyglbe0CIDNX+m51g69wil6k43Xa
rftVJ7x5fuTSXCC+RpU2CdqU
-----END CERTIFICATE-----
"""
