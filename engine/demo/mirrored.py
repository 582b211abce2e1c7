"""
A shop that is mirrored and can be cut over: its software, its configuration, and the commands that
a person would type. The demo and the end-to-end tests of the cutover are made of it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import msgspec

from engine.demo.engine_process import EngineProcess
from engine.demo.proof import Proof, count_both
from engine.demo.shop import application_of
from engine.demo.writer import ShopWriter
from engine.errors import TailraceError
from engine.handover import Cutover
from engine.verify.report import VerifyReport

__all__ = ["DIFFERENT", "MirroredShop"]

COMMAND_DEADLINE_SECONDS: Final = 300.0
#: The exit status of ``tailrace verify`` if both sides differ.
DIFFERENT: Final = 3

CONFIG: Final = """\
[source]
url = "{source}"
tables = ["{database}.*"]

[sink]
url = "{target}"

[backfill]
chunk_rows = {chunk_rows}
slice_seconds = 0.1

[cutover]
switch = {{ command = ["./switch-shop"] }}
"""
#: Switches the software, by the file in which it looks where its database is.
SWITCH: Final = """\
#!/bin/sh
set -e
printf '%s\\n' {target} > {address}.part
mv {address}.part {address}
echo "$TAILRACE_CUTOVER_ACTION $TAILRACE_CUTOVER_ID" >> {called}
"""


class MirroredShop:
    """The shop at ``url``, which is loaded, mirrored into ``target``. ``folder`` gets its files.

    As a context manager it kills its engine and its writer at the end.
    """

    def __init__(
        self, url: str, target: str, folder: Path, *, chunk_rows: int, rate: float = 300.0
    ) -> None:
        source, _, database = url.rpartition("/")
        self.url = url
        self.target = target
        self.folder = folder
        self.config = folder / "shop.toml"
        self.log = folder / "engine.log"
        #: The hook of the switch appends a line each time that it is called.
        self.called = folder / "called"
        self.engine = EngineProcess(self.config, self.log)
        address, hook = folder / "address", folder / "switch-shop"
        self.config.write_text(
            CONFIG.format(
                source=f"{source}/", target=target, database=database, chunk_rows=chunk_rows
            )
        )
        words = {"target": target, "address": str(address), "called": str(self.called)}
        hook.write_text(SWITCH.format_map({name: shlex.quote(it) for name, it in words.items()}))
        hook.chmod(0o700)
        self.writer = ShopWriter(application_of(url), rate, address=address)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.writer)
        self._stack.enter_context(self.engine)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def command(self, *words: str) -> list[str]:
        """The command line of ``tailrace`` for the shop, to be run in its folder."""
        return [sys.executable, "-P", "-m", "engine.cli", *words, self.config.name]

    def complete_schema(self) -> int:
        """``tailrace schema apply``: create what the pipeline does not. Returns the number of
        differences that are removed.
        """
        done = self._run("schema", "apply", "--yes", "--json")
        return len(msgspec.json.decode(done.stdout, type=list[object]))

    def verify(self, *options: str) -> VerifyReport:
        """``tailrace verify``: compare both sides."""
        done = self._run("verify", "--json", *options, may_end_with=DIFFERENT)
        return msgspec.json.decode(done.stdout, type=VerifyReport)

    def rehearse(self) -> None:
        """``tailrace cutover --rehearse``: all but the freeze and the switch."""
        self._run("cutover", "--rehearse", "--json")

    def cut_over(self, *options: str) -> Cutover:
        """``tailrace cutover``: switch the shop's software to the target. The engine ends."""
        done = self._run("cutover", "--json", *options)
        return msgspec.json.decode(done.stdout, type=Cutover)

    def count(self) -> Proof:
        """Count the rows of both sides, with those that the writer has written."""
        return count_both(self.url, self.target, self.writer.counts)

    def _run(self, *words: str, may_end_with: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            timeout=COMMAND_DEADLINE_SECONDS,
            check=False,
            cwd=self.folder,
            env=os.environ | {"NO_COLOR": "1"},
        )
        if done.returncode not in (0, may_end_with):
            said = (done.stdout[-500:] + done.stderr[-1000:]).decode(errors="replace")
            raise TailraceError(
                f"tailrace {' '.join(words)} ended with status {done.returncode}",
                hint=said.strip(),
            )
        return done
