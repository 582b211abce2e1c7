"""
Reports: ``tailrace verify --report`` and ``tailrace cutover --report`` write them, and ``tailrace
report verify`` checks them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.checkpoint import Checkpoint
from engine.cli.command import Command
from engine.cli.wiring import places, version_and_codecs
from engine.contract import NamesServer
from engine.errors import ConfigError, OutputError
from engine.ops.log import printable
from engine.report.parts import Server
from engine.schema import Table
from engine.settings.loader import Settings
from engine.settings.mapping import rules_of
from engine.verify.content import Compared, NotCompared, make_content
from engine.verify.report import VerifyReport

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "REPORT",
    "Plan",
    "Wanted",
    "add_report_options",
    "make_plan",
    "server_of",
    "wanted_report",
    "write_report",
]

_SUFFIXES = (".html", ".json")


class Wanted(NamedTuple):
    """The files that ``--report`` names, and the key of ``--sign``."""

    files: Sequence[Path]
    key: Ed25519PrivateKey | None


def add_report_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--report`` and ``--sign``. ``what`` the report is of, for the help."""
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help=f"write a report {what}, as FILE.html or FILE.json; repeatable",
    )
    parser.add_argument(
        "--sign", type=Path, metavar="KEY.pem", help="sign the report with this Ed25519 key"
    )


def wanted_report(options: argparse.Namespace) -> Wanted | None:
    """The report that is asked for; None if there is none. Raises ConfigError before the work,
    rather than after it, if it cannot be written or signed."""
    for path in options.report:
        if path.suffix not in _SUFFIXES:
            raise ConfigError(
                f"the report {path} has to end with .html or .json",
                hint="write --report report.html",
            )
        if not os.access(path.parent, os.W_OK) or path.is_dir():
            raise ConfigError(
                f"the report {path} cannot be written",
                hint="choose a file in a folder that exists and can be written to",
            )
    if options.sign is None:
        return Wanted(options.report, None) if options.report else None
    if not options.report:
        raise ConfigError("--sign signs a report", hint="name the report, too: --report FILE.html")
    from engine.report.seal import read_private_key

    return Wanted(options.report, read_private_key(options.sign))


def write_report(
    wanted: Wanted, content: msgspec.Struct, page: Callable[[str, str], tuple[bytes, bytes]]
) -> None:
    """Write the files, and print their names and the hash of their content on standard error.
    ``page`` makes the page from this hash and the public key, as ``page_of``. Raises OutputError.
    """
    from engine.report import seal

    plain = msgspec.to_builtins(content)
    digest = seal.content_hash(plain)
    key = "" if wanted.key is None else seal.public_hex(wanted.key.public_key())
    pieces = page(digest, key)
    document = seal.document(plain, pieces, wanted.key)
    for path in wanted.files:
        is_page = path.suffix == ".html"
        _write(path, document.join(pieces) if is_page else document + b"\n")
        print(f"report: {printable(str(path))}", file=sys.stderr)
    print(f"sha256: {digest}", file=sys.stderr)


class Plan(NamedTuple):
    """What a report tells besides the result of the comparison."""

    wanted: Wanted
    began: float
    settings: Settings
    servers: tuple[Server, Server]
    checkpoint: Checkpoint
    #: By the name in the result: the table of the target, and those of the source.
    tables: Mapping[str, tuple[Table, Sequence[Table]]]
    chosen: Sequence[str]

    def write(self, report: VerifyReport) -> None:
        """Write the report. Raises OutputError."""
        from engine.verify.page import page

        content = make_content(report, self._compared(report))
        place = places(self.settings)
        write_report(self.wanted, content, lambda digest, key: page(content, digest, key, place))

    def _compared(self, report: VerifyReport) -> Compared:
        settings, progress = self.settings, self.checkpoint.progress
        states: dict[str, str] = {str(id): it.state for id, it in progress.items()}
        named = {it.table for it in report.tables}
        for name, (_, sources) in self.tables.items():
            ids = [str(it.id) for it in sources]
            named.update(ids)
            states[name] = " + ".join(dict.fromkeys(states.get(id, "unknown") for id in ids))
        return Compared(
            version_and_codecs()[0],
            settings.pipeline.name,
            *self.servers,
            self.began,
            time.time(),
            states,
            {name: self._masked(*tables) for name, tables in self.tables.items()},
            [
                NotCompared(str(id), it.state, it.reason or self._why_not(it.state))
                for id, it in sorted(progress.items())
                if str(id) not in named
            ],
        )

    def _masked(self, target: Table, sources: Sequence[Table]) -> set[str]:
        """The names of the masked columns on the target. Names in a mask may have any case."""
        rules = (rules_of(self.settings.mapping, it.id) for it in sources)
        masks = {name.lower() for it in rules if it is not None for name in it.mask}
        return {name for name in target.names if name.lower() in masks}

    def _why_not(self, state: str) -> str:
        if state == "excluded":
            return "the configuration does not select it"
        return "it was not asked for (--table)" if self.chosen else "it has no rows to compare yet"


async def make_plan(
    wanted: Wanted,
    settings: Settings,
    checkpoint: Checkpoint,
    tables: Mapping[str, tuple[Table, Sequence[Table]]],
    readers: tuple[object, object],
    chosen: Sequence[str],
) -> Plan:
    """What a report tells of the comparison that begins now. ``readers`` are those of the source
    and the target, ``chosen`` the tables of ``--table``."""
    source = await asyncio.to_thread(server_of, readers[0], settings.source)
    target = await asyncio.to_thread(server_of, readers[1], settings.sink)
    return Plan(wanted, time.time(), settings, (source, target), checkpoint, tables, chosen)


def server_of(reader: object, settings: object) -> Server:
    """A side of the pipeline, as a reader of its rows and its settings tell."""
    software = reader.server() if isinstance(reader, NamesServer) else ""
    return Server(software, _address(settings))


def _address(settings: object) -> str:
    """The host and the database of a side, without a user, a password or parameters."""
    _, mark, rest = str(getattr(settings, "url", "")).partition("://")
    return rest.partition("?")[0].rpartition("@")[2] if mark else ""


def _write(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the report {path}: {error.strerror}") from error


def report(options: argparse.Namespace) -> int:
    """Check a report that `tailrace verify` or `tailrace cutover` has written, as HTML or as JSON.

    Prints the hash of the content, and what was changed, as far as the hashes tell. Exit status 0:
    the report is as it was written, and signed with the key of --key if there is one; 1: it is not.

    Hashes alone do not protect against somebody who computes them anew. --key does: it has the
    public key of the one who signs the reports.
    """
    from engine.report.seal import check, read_public_key

    key = None if options.key is None else read_public_key(options.key)
    try:
        data = options.file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {options.file}: {error.strerror}") from error
    checked = check(data, key)
    for problem in checked.problems:
        print(f"changed: {printable(problem)}")
    if checked.sha256:
        print(f"sha256: {checked.sha256}")
    if checked.key:
        known = "the key of --key" if key is not None and not checked.problems else "key"
        print(f"signed with {known} {checked.key}")
    else:
        print("not signed")
    return 1 if checked.problems else 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("verify",), metavar="verify", help="what to do with the report"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the report")
    parser.add_argument(
        "--key", type=Path, metavar="PUB.pem", help="the public key that the report is signed with"
    )


REPORT = Command(
    *("report", "check a report of a comparison or a cutover", report, _add_options),
    takes_config=False,
)
