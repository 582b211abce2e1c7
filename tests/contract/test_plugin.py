"""
A package of a third party registers a source and a sink by entry points: the folder ``plugin``.

It is installed into a folder as an installer does it, without the network, and used by processes of
its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
DEADLINE_SECONDS = 90


class Installed:
    """The package in ``site``, its configuration and log in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site"
        self.folder = folder / "work"
        install(self.site)
        ignored = shutil.ignore_patterns("tailrace_example", "__pycache__")
        shutil.copytree(PLUGIN, self.folder, ignore=ignored)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python -m`` with these arguments, in the folder."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(self.site), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def rows(self, table: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "shop.db")) as database:
            return database.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()

    def commit(self, *changes: object) -> None:
        """Append a transaction to the log."""
        with (self.folder / "shop.jsonl").open("a") as file:
            file.write(json.dumps({"at": 1760000002.0, "changes": changes}) + "\n")


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
    assert {"changelog", "guarantee", "sqlite"} <= set(findings)
    assert "exactly once" in findings["guarantee"]["message"]
    assert not (installed.folder / "shop.db").exists()


def test_a_pipeline_runs_until_it_has_caught_up_and_resumes(installed: Installed) -> None:
    run = ("engine.cli", "run", "example.toml", "--until-caught-up")
    done = installed.run(*run)
    assert done.returncode == 0, done.stderr
    assert installed.rows("shop.item") == [(1, "a", "sold")]
    assert installed.rows("shop.remark") == [("a", "thanks")]
    again = {"code": "a", "note": "thanks"}
    installed.commit({"table": "remark", "after": again}, {"table": "unknown", "after": {}})
    done = installed.run(*run)
    assert done.returncode == 0, done.stderr
    assert installed.rows("shop.item") == [(1, "a", "sold")]
    assert installed.rows("shop.remark") == [("a", "thanks")] * 2
    status = installed.run("engine.cli", "status", "example.toml", "--json")
    assert status.returncode == 0, status.stderr
    assert {table["state"] for table in json.loads(status.stdout)["tables"]} == {"live"}


def test_tail_prints_the_log_of_the_plug_in(installed: Installed) -> None:
    done = installed.run("engine.cli", "tail", "example.toml", "--from", "", "--limit", "2")
    assert done.returncode == 0, done.stderr
    created, inserted = map(json.loads, done.stdout.splitlines())
    assert created["table"] == inserted["table"] == "item"
    assert inserted["after"] == {"id": 1, "code": "a", "note": None}


def test_a_damaged_line_stops_the_pipeline_at_its_position(installed: Installed) -> None:
    position = (installed.folder / "shop.jsonl").stat().st_size
    installed.commit({"table": "remark", "after": {"code": "a"}})
    done = installed.run("engine.cli", "run", "example.toml", "--until-caught-up")
    assert done.returncode == 1
    assert f"[position {position}]" in done.stderr


def test_the_shipped_suite_passes_on_the_plug_in(installed: Installed) -> None:
    options = ("-q", "-ra", "-W", "error", "-p", "no:cacheprovider", "--rootdir=.")
    done = installed.run("pytest", *options, "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestChangelogSource" not in done.stdout  # nothing of the source is skipped
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert skipped
    assert all("schema changes" in line for line in skipped)
