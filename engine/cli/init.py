"""
The command ``init``: two URLs → a commented configuration that works.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from getpass import getpass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from engine.cli.command import Command
from engine.cli.output import print_tables
from engine.cli.wiring import load_settings, make_source
from engine.contract import SnapshotSource
from engine.errors import ConfigError
from engine.ops.log import printable
from engine.schema import Table
from engine.settings.reference import reference_path

__all__ = ["INIT"]

#: A secret in the query of a URL: everything up to its name, its name, its value.
SECRET_IN_QUERY = re.compile(r"(?i)((?:^|(?<=&))([^=&]*(?:password|secret|token)[^=&]*)=)([^&]+)")
#: The environment variables of placeholders.
VARIABLE = re.compile(r"\$\{(\w+)\}")

SET = "set the environment variable "
#: The scheme of log files on disk, which cannot list tables.
FILES = "mysql-binlog:"

#: The number of tables that the file lists by name.
LISTED_TABLES = 40

TEMPLATE = """\
# Tailrace. Every key, with its default and unit: {reference}

[pipeline]
name = {name}  # identifies the checkpoint in the target: never change it

[source]
url = {source}
tables = [{patterns}]  # patterns, schema.table
"""
#: For log files, whose URL is a path.
SCHEMA_TEMPLATE = """\
# The tables at the beginning of the log, unless the log has their columns: mysqldump --no-data
#schema = "schema.sql"
"""
SINK_TEMPLATE = """
[sink]
url = {sink}
"""


def init(options: argparse.Namespace) -> int:
    """Write a commented configuration from two URLs, after listing the source's tables.

    A password in a URL is not written into the file, and with --ask-passwords it need not be in a
    URL. The file refers to the environment variables SOURCE_PASSWORD and TARGET_PASSWORD instead.
    Only its owner may read the file.
    """
    output: Path = options.output
    if output.exists() and not options.force:
        raise ConfigError(
            f"{output} already exists", hint="choose another --output, or add --force"
        )
    source_url, database = options.source, ""
    files = source_url.startswith(FILES)
    from rich.console import Group
    from rich.text import Text

    if not files:
        source_url, database = _split_database(_without_secrets(source_url, "SOURCE", options))
    text = TEMPLATE.format(
        reference=reference_path(),
        name=json.dumps(output.stem),
        source=json.dumps(source_url),
        patterns=json.dumps(f"{database or '*'}.*"),
    )
    text += SCHEMA_TEMPLATE if files else ""
    sink = SINK_TEMPLATE.format(
        sink=json.dumps(_without_secrets(options.target, "TARGET", options))
    )
    found = _write(output, lambda found: text + _listing(found) + sink)
    count = f": {len(found.tables):,} tables, about {found.rows:,} rows" if found else ""
    variables = dict.fromkeys(VARIABLE.findall(text + sink))
    print_tables(
        Group(
            Text.assemble("wrote ", (str(output), "bold"), count),
            *(
                Text.assemble(
                    "set the environment variable ", (name, "bold"), " before the next step"
                )
                for name in variables
            ),
            Text.assemble("next: ", (f"tailrace check {shlex.quote(str(output))}", "bold")),
        )
    )
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="e.g. mysql://repl@legacy:3306/shop, or mysql-binlog:/backup/binlogs",
    )
    parser.add_argument("target", metavar="TARGET", help="e.g. postgresql://tailrace@new:5432/shop")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("tailrace.toml"),
        metavar="FILE",
        help="the file to write (default tailrace.toml)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--ask-passwords", action="store_true", help="ask for the passwords of source and target"
    )


INIT = Command(
    "init", "write a configuration from two URLs", init, _add_options, takes_config=False
)


class _Found(NamedTuple):
    """The source's tables that match, and about how many rows they have."""

    tables: Sequence[Table]
    rows: int


def _list_tables(config: Path) -> _Found | None:
    """The tables of a source that can list them."""
    with closing(make_source(load_settings(config))) as source:
        if not isinstance(source, SnapshotSource):
            return None
        tables = source.catalog()
        if not tables:
            raise ConfigError(
                "no table of the source matches",
                hint="name the database in the URL, and check which tables the user may SELECT",
            )
        return _Found(tables, sum(source.estimates(tables).values()))


def _listing(found: _Found | None) -> str:
    """The tables, as comments."""
    if found is None:
        return ""
    tables, rows = found
    lines = [f"# found: {len(tables):,} tables, about {rows:,} rows"]
    for table in tables[:LISTED_TABLES]:
        remark = "" if table.key else "  (no key: backfilled in one piece, compared as a multiset)"
        lines.append(printable(f"#   {table.id}{remark}"))
    if len(tables) > LISTED_TABLES:
        lines.append(f"#   … and {len(tables) - LISTED_TABLES:,} more")
    return "\n".join(lines) + "\n"


def _write(output: Path, text: Callable[[_Found | None], str]) -> _Found | None:
    """Write the file, first without the tables, since listing them needs a configuration."""
    draft = output.with_name(output.name + ".draft")
    try:
        _write_private(draft, text(None))
        found = _list_tables(draft)
        _write_private(draft, text(found))
        draft.replace(output)
    except OSError as error:
        raise ConfigError(
            f"cannot write {output}: {error.strerror or error}",
            hint="choose another --output, in a folder that exists and that you may write",
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return found


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())


def _without_secrets(url: str, side: str, options: argparse.Namespace) -> str:
    """The URL with placeholders for its passwords, which are set in this process's environment."""
    parts = urlsplit(url)
    query = SECRET_IN_QUERY.sub(
        lambda match: match[1] + _placeholder(f"{side}_{match[2].upper()}", match[3]), parts.query
    )
    account, at, host = parts.netloc.rpartition("@")
    user, _, password = account.partition(":")
    if options.ask_passwords and at and not password and query == parts.query:
        password = quote(getpass(f"password of {user} at the {side.lower()}: "), safe="")
    if not password and query == parts.query:
        return url  # not put together again, which would lose an empty host
    if password:
        account = f"{user}:{_placeholder(f'{side}_PASSWORD', password)}"
    return urlunsplit(parts._replace(netloc=f"{account}{at}{host}", query=query))


def _placeholder(variable: str, secret: str) -> str:
    """A placeholder for a secret, as it stands in a URL. What is a placeholder already stays."""
    if secret.startswith("${"):
        return secret
    os.environ[variable] = unquote(secret)
    return f"${{{variable}}}"


def _split_database(url: str) -> tuple[str, str]:
    """The URL without its path, and the database in the path."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/")), unquote(parts.path.strip("/"))
