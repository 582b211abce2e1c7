"""
Which end-to-end tests run by default: those on MySQL 9.7 and MariaDB 11.8. `make slow` runs the
same on MariaDB 10.11, which the tests of the source cover by default, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LEFT_TO_SLOW = "mariadb-10.11"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before tests are deselected by their marks."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and LEFT_TO_SLOW in item.name:
            item.add_marker(pytest.mark.slow)
