"""
The package as it is built and installed: from what the container image gets of the repository to a
source distribution, to a wheel, to the command line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.servers import AnyServer, connect_mysql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
IGNORE = ROOT / "config" / "compose" / "Dockerfile.dockerignore"
STEP_SECONDS = 240
#: What messages of the package name, or the engine serves.
DOCUMENTS = ("config/reference.toml", "docs/runbook.md", "docs/recovery.md")
#: The sources of the compiled codecs.
C_SOURCES = (
    *("sources/mysql/codec/_accelerator.c", "sinks/postgres/_accelerator.c"),
    "engine/toolkit/buffer.h",
)
BUILD = "from setuptools import build_meta as it; print(it.build_{}({!r}))"


def run(*words: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a program in a folder, and return its standard output."""
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def image_context(folder: Path) -> None:
    """Copy what Dockerfile.dockerignore lets into the image."""
    lines = [line for line in IGNORE.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    ignored = {line for line in lines[1:] if not line.startswith("!")}
    assert ignored == {"benchmarks/results", "**/__pycache__"}
    for line in lines:
        if not line.startswith("!"):
            continue
        source, target = ROOT / line[1:], folder / line[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "*.so", "results")
            shutil.copytree(source, target, ignore=left_out)
        else:
            shutil.copy(source, target)


def make_environment(folder: Path) -> Path:
    """An empty virtual environment; its Python."""
    run(sys.executable, "-m", "venv", folder, folder=folder.parent)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    context, built = folder / "context", folder / "built"
    context.mkdir()
    built.mkdir()
    image_context(context)
    python = make_environment(folder / "builder")
    run(python, "-m", "pip", "install", "-q", "setuptools>=77", folder=folder)
    run(python, "-c", BUILD.format("sdist", str(built)), folder=context)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    python = sdist.parents[1] / "builder" / "bin" / "python"
    built = folder / "built"
    built.mkdir()
    run(python, "-c", BUILD.format("wheel", str(built)), folder=unpacked)
    (path,) = built.iterdir()
    return path


def test_the_source_distribution_has_what_the_build_and_its_users_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {*DOCUMENTS, *C_SOURCES, "setup.py", "engine/mapping/collations.json"}


def test_the_wheel_has_the_compiled_codecs_and_the_documents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    compiled = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert compiled == {it.partition(".")[0] for it in C_SOURCES if it.endswith(".c")}
    assert wheel.name.split("-")[2:4] == ["cp311", "abi3"]
    for document in DOCUMENTS:
        share = "share/tailrace/" + document.removeprefix("config/")
        assert any(name.endswith(f".data/data/{share}") for name in names), document


def test_the_installed_command_line_works(
    wheel: Path, mysql: AnyServer, source_database: str, postgres: AnyServer, tmp_path: Path
) -> None:
    """In an environment of its own, with the dependencies of this one."""
    python = make_environment(tmp_path / "installed")
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, folder=tmp_path)
    tailrace = python.with_name("tailrace")
    dependencies = {"PYTHONPATH": sysconfig.get_path("purelib")}
    found = run(
        python,
        "-c",
        "import engine; print(engine.__file__)",
        folder=tmp_path,
        environment=dependencies,
    )
    assert Path(found.strip()).is_relative_to(tmp_path)
    version = run(tailrace, "--version", folder=tmp_path, environment=dependencies)
    assert "(compiled codecs)" in version
    with connect_mysql(mysql, source_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE pets (id INT PRIMARY KEY)")
    url = f"{mysql.url.rstrip('/')}/{source_database}"
    run(
        *(tailrace, "init", url, postgres.url, "--output", "pets.toml"),
        folder=tmp_path,
        environment=dependencies,
    )
    first = (tmp_path / "pets.toml").read_text().splitlines()[0]
    reference = Path(first.rpartition(": ")[2])
    assert reference.is_relative_to(tmp_path)
    assert "[pipeline]" in reference.read_text()
