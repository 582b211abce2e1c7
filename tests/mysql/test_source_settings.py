"""
The settings of the source: the URL of the server, and patterns of tables.
"""

from __future__ import annotations

import pytest

from engine.databases.mysql.settings import address_of
from engine.errors import ConfigError, SourceError, TailraceError
from engine.schema import TableId
from sources.mysql.server_info import folds_names
from sources.mysql.settings import MySQLSettings, selector


def test_a_url_is_parsed() -> None:
    address = address_of(
        MySQLSettings(url="mariadb://a%40b:p%3Aw@db.example:3307/?tls=verify-full&tls_ca=/ca.pem")
    )
    assert address[:6] == ("db.example", 3307, "a@b", "p:w", "verify-full", "/ca.pem")
    assert "p:w" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost/",
        "mysql://",
        "mysql://host:port/",
        "mysql://host/?tls=maybe",
        "mysql://host/?tls=verify-ca",
        "mysql://host/?colour=blue",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address_of(MySQLSettings(url=url))
    assert caught.value.hint


def test_a_url_with_a_database_selects_its_tables() -> None:
    """Unless patterns do."""
    assert MySQLSettings(url="mysql://h/my%20shop").tables == ("my shop.*",)
    assert MySQLSettings(url="mysql://h/shop", tables=("crm.*",)).tables == ("crm.*",)
    assert MySQLSettings(url="mysql://h/").tables == ("*.*",)


def test_patterns_select_tables() -> None:
    select = selector(("shop.*", "*.order?"), ("shop.tmp_*",))
    chosen = ["shop.a", "shop.tmp_a", "x.orders", "x.order", "mysql.orders", "Shop.a"]
    assert [name for name in chosen if select(TableId(*name.split(".")))] == ["shop.a", "x.orders"]
    assert selector(("Shop.*",), (), fold_names=True)(TableId("shop", "A"))
    with pytest.raises(TailraceError):
        selector(("orders",), ())


def test_names_that_the_log_and_the_catalog_spell_differently_are_refused() -> None:
    assert [folds_names(0), folds_names(1)] == [False, True]
    with pytest.raises(SourceError, match="lower_case_table_names = 2"):
        folds_names(2)
