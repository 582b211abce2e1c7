"""
The command ``init``: two URLs → a commented configuration that works.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from engine.cli.command import Command
from engine.cli.wiring import load_settings, make_source
from engine.contract import SnapshotSource
from engine.errors import ConfigError
from engine.schema import Table

__all__ = ["INIT"]

#: The scheme of log files on disk, which cannot list tables.
FILES = "mysql-binlog:"

#: The number of tables that the file lists by name.
LISTED_TABLES = 40

TEMPLATE = """\
# Tailrace. The reference configuration explains every key, with its default and unit.

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

    A password in a URL is not written into the file. The file refers to the environment variables
    SOURCE_PASSWORD and TARGET_PASSWORD instead.
    """
    output: Path = options.output
    if output.exists() and not options.force:
        raise ConfigError(
            f"{output} already exists", hint="choose another --output, or add --force"
        )
    source_url, database = options.source, ""
    files = source_url.startswith(FILES)
    if not files:
        source_url, database = _split_database(_without_password(source_url, "SOURCE_PASSWORD"))
    text = TEMPLATE.format(
        name=json.dumps(output.stem),
        source=json.dumps(source_url),
        patterns=json.dumps(f"{database or '*'}.*"),
    )
    text += SCHEMA_TEMPLATE if files else ""
    sink = SINK_TEMPLATE.format(
        sink=json.dumps(_without_password(options.target, "TARGET_PASSWORD"))
    )
    draft = output.with_name(output.name + ".draft")
    draft.write_text(text + sink, encoding="utf-8")
    try:
        found = _list_tables(draft)
        draft.write_text(text + _listing(found) + sink, encoding="utf-8")
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
    from rich.console import Console

    console = Console()
    count = f": {len(found.tables):,} tables, about {found.rows:,} rows" if found else ""
    console.print(f"wrote [bold]{output}[/]{count}")
    for name in ("SOURCE_PASSWORD", "TARGET_PASSWORD"):
        if f"${{{name}}}" in text + sink:
            console.print(f"set the environment variable [bold]{name}[/] before the next step")
    console.print(f"next: [bold]tailrace check {output}[/]")
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
        lines.append(f"#   {table.id}{remark}")
    if len(tables) > LISTED_TABLES:
        lines.append(f"#   … and {len(tables) - LISTED_TABLES:,} more")
    return "\n".join(lines) + "\n"


def _without_password(url: str, variable: str) -> str:
    """The URL with a placeholder for its password, which is set in this process's environment."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    if not parts.password.startswith("${"):
        os.environ[variable] = unquote(parts.password)
    account, _, host = parts.netloc.rpartition("@")
    user = account.split(":", 1)[0]
    secret = parts.password if parts.password.startswith("${") else f"${{{variable}}}"
    return urlunsplit(parts._replace(netloc=f"{user}:{secret}@{host}"))


def _split_database(url: str) -> tuple[str, str]:
    """The URL without its path, and the database in the path."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/")), unquote(parts.path.strip("/"))
