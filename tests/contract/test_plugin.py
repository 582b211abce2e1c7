"""
A package of a third party registers a source and a sink by entry points: the folder ``plugin``.

It is installed into a folder as an installer does it, without the network, and used by processes of
its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
DEADLINE_SECONDS = 90
COMMITTED_BYTES = (PLUGIN / "shop.jsonl").stat().st_size


class Installed:
    """The package in ``site``, its configuration and log in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.folder = folder / "work"
        install(self.site)
        ignored = shutil.ignore_patterns("tailrace_example", "__pycache__")
        shutil.copytree(PLUGIN, self.folder, ignore=ignored)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``python -m`` with these arguments, in the folder."""
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(self.site), str(ROOT)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``start``, and wait for the end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=DEADLINE_SECONDS)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def rows(self, table: str) -> list[dict[str, object]]:
        state = json.loads((self.folder / "copy" / "state.json").read_bytes())
        found = {one["table"]["name"]: one["rows"] for one in state["own"]["tables"]}
        return found[table]

    def position(self) -> int | None:
        """The position in the checkpoint, None before the first commit."""
        state = self.folder / "copy" / "state.json"
        if not state.exists():
            return None
        position = json.loads(state.read_bytes())["state"]["position"]
        return None if position is None else int(position)

    def commit(self, *changes: object) -> None:
        """Append a transaction to the log."""
        self.append(json.dumps({"at": 1760000002.0, "changes": changes}).encode() + b"\n")

    def append(self, data: bytes) -> None:
        with (self.folder / "shop.jsonl").open("ab") as file:
            file.write(data)


def install(site: Path) -> None:
    """Copy the modules, and write the metadata that an installer writes: the entry points."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(header, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PLUGIN / "tailrace_example", site / "tailrace_example", ignore=ignored)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_the_schemes_are_unknown_without_the_package(tmp_path: Path) -> None:
    shutil.copy(PLUGIN / "example.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "check", str(tmp_path / "example.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "changelog:" in done.stderr


def test_check_finds_the_plug_in_ready(installed: Installed) -> None:
    done = installed.run("engine.cli", "check", "example.toml", "--json")
    assert done.returncode == 0, done.stderr
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert {finding["level"] for finding in findings.values()} == {"ok"}
    assert {"changelog", "guarantee", "jsonfile"} <= set(findings)
    assert "exactly once" in findings["guarantee"]["message"]
    assert not (installed.folder / "copy").exists()


def test_check_names_a_log_that_is_missing(installed: Installed) -> None:
    (installed.folder / "shop.jsonl").unlink()
    done = installed.run("engine.cli", "check", "example.toml")
    assert done.returncode == 1
    assert "shop.jsonl" in done.stdout


def test_a_pipeline_runs_until_it_has_caught_up_and_resumes(installed: Installed) -> None:
    run = ("engine.cli", "run", "example.toml", "--until-caught-up")
    done = installed.run(*run)
    assert done.returncode == 0, done.stderr
    sold, thanks = {"id": 1, "code": "a", "note": "sold"}, {"code": "a", "note": "thanks"}
    assert installed.rows("item") == [sold]
    assert installed.rows("remark") == [thanks]
    installed.commit(["remark", None, ["a", "thanks"]])
    done = installed.run(*run)
    assert done.returncode == 0, done.stderr
    assert installed.rows("item") == [sold]
    assert installed.rows("remark") == [thanks, thanks]
    status = installed.run("engine.cli", "status", "example.toml", "--json")
    assert status.returncode == 0, status.stderr
    assert {table["state"] for table in json.loads(status.stdout)["tables"]} == {"live"}


def test_a_line_without_a_line_feed_is_not_applied(installed: Installed) -> None:
    installed.append(b'{"at": 1760000003.0, "changes": [["item", [1, "a", "sold"], nu')
    with installed.start("engine.cli", "run", "example.toml", "--until-caught-up") as process:
        try:
            wait_until(lambda: installed.position() == COMMITTED_BYTES)
            assert process.poll() is None
            assert len(installed.rows("item")) == 1
            installed.append(b"ll]]}\n")
            _, err = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert installed.rows("item") == []


def test_tail_prints_the_log_of_the_plug_in(installed: Installed) -> None:
    done = installed.run("engine.cli", "tail", "example.toml", "--from", "", "--limit", "2")
    assert done.returncode == 0, done.stderr
    created, inserted = map(json.loads, done.stdout.splitlines())
    assert created["table"] == inserted["table"] == "item"
    assert inserted["after"] == {"id": 1, "code": "a", "note": None}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(["unknown", None, ["a"]], id="unknown-table"),
        pytest.param(["remark", None, ["a"]], id="missing-column"),
        pytest.param(["remark", None, None], id="no-row"),
    ],
)
def test_a_damaged_line_stops_the_pipeline_at_its_position(
    installed: Installed, change: list[object]
) -> None:
    position = (installed.folder / "shop.jsonl").stat().st_size
    installed.commit(change)
    done = installed.run("engine.cli", "run", "example.toml", "--until-caught-up")
    assert done.returncode == 1
    assert f"position={position}" in done.stderr


@pytest.mark.parametrize("change", ["shortened", "reconfigured"])
def test_a_log_that_does_not_fit_the_checkpoint_stops_the_pipeline(
    installed: Installed, change: str
) -> None:
    run = ("engine.cli", "run", "example.toml", "--until-caught-up")
    assert installed.run(*run).returncode == 0
    if change == "shortened":
        os.truncate(installed.folder / "shop.jsonl", 10)
        expected = "the file is shorter than the position"
    else:
        configuration = installed.folder / "example.toml"
        configuration.write_text(configuration.read_text().replace("int64", "int32"))
        expected = "the configuration of a table was changed"
    done = installed.run(*run)
    assert done.returncode == 1
    assert expected in done.stderr


def test_the_shipped_suite_passes_on_the_plug_in(installed: Installed) -> None:
    options = ("-q", "-ra", "-W", "error", "-p", "no:cacheprovider", "--rootdir=.")
    done = installed.run("pytest", *options, "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestChangelogSource" not in done.stdout  # nothing of the source is skipped
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    lacking = (
        *("schema changes", "cascades", "parts", "in place", "columns"),
        *("keeps no commands", "keeps no dead letters", "keeps no proofs"),
        *("keeps no comparisons", "applications cannot be switched"),
    )
    assert [line for line in skipped if not any(name in line for name in lacking)] == []
