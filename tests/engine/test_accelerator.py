"""
The accelerators are built wherever that is possible.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from sinks.postgres import accelerator as encoder
from sources.mysql.codec import accelerator as decoder


@pytest.mark.parametrize("available", [decoder.AVAILABLE, encoder.AVAILABLE], ids=["rows", "copy"])
def test_the_accelerator_is_built_if_it_can_be(available: bool) -> None:
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not (os.environ.get("CI") == "true" and headers.exists() and shutil.which(compiler)):
        pytest.skip("runs only in CI, with a C compiler and Python's headers")
    assert available or os.environ.get("TAILRACE_ACCELERATOR") == "off"
