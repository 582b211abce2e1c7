"""
Value policies: which one holds for a column, and the errors of a wrong configuration.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.wiring import load_settings
from engine.errors import ConfigError
from engine.schema import Column, Table, TableId, Type
from engine.toolkit.policies import StoragePolicies

ORDERS = TableId("shop", "orders")


def test_a_column_takes_precedence_over_its_table_and_that_over_the_pipeline() -> None:
    policies = StoragePolicies(
        zero_date="epoch",
        nul_byte="error",
        tables={
            "shop.*": {"zero_date": "text", "nul_byte": "strip"},
            "shop.order?": {"zero_date": "error"},
        },
        columns={"shop.*.Paid_*": {"zero_date": "null"}, "*.*.paid_at": {"zero_date": "-infinity"}},
    )
    assert policies.of(TableId("crm", "orders"), "day") == StoragePolicies(
        zero_date="epoch", nul_byte="error"
    )
    assert policies.of(TableId("shop", "items"), "day") == StoragePolicies(zero_date="text")
    assert policies.of(ORDERS, "day") == StoragePolicies(zero_date="error")
    assert policies.of(ORDERS, "PAID_ON") == StoragePolicies(zero_date="null")
    assert policies.of(ORDERS, "paid_at") == StoragePolicies(zero_date="-infinity")


def test_patterns_that_match_nothing_are_found() -> None:
    table = Table(ORDERS, (Column("Paid", Type("date"), "date"),))
    policies = StoragePolicies(
        tables={"shop.*": {}, "shop.items": {}},
        columns={"*.orders.p*": {}, "*.*.payed": {}, "shop.items.paid": {}},
    )
    assert policies.unmatched([table]) == ["shop.items", "*.*.payed", "shop.items.paid"]


def test_a_name_in_lower_case_matches_a_pattern_in_any_case() -> None:
    """Names are in lower case on a server with lower_case_table_names = 1."""
    policies = StoragePolicies(
        tables={"shop.ORDERS": {"zero_date": "text"}, "shop.Order?": {"nul_byte": "replace"}},
        columns={"Shop.ORDERS.day": {"zero_date": "epoch"}},
    )
    assert policies.of(ORDERS, "Day") == StoragePolicies(zero_date="epoch", nul_byte="replace")
    assert policies.of(TableId("shop", "Orders"), "day") == StoragePolicies(nul_byte="replace")
    assert policies.of(TableId("shop", "oRDERS"), "day") == StoragePolicies()


def refused(folder: Path, values: str) -> ConfigError:
    path = folder / "shop.toml"
    path.write_text(
        '[source]\nurl = "mysql://h/"\n[sink]\nurl = "postgresql://h/"\n[sink.values]\n' + values
    )
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    return raised.value


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ("zero_date = 'nul'", "shop.toml:6: sink.values.zero_date: ", "'null'? allowed are"),
        ("zero_dates = 'null'", "shop.toml:6: sink.values.zero_dates: ", "'zero_date'?"),
        ("tables = {'shop' = {}}", "'shop' is not a pattern", "write schema.table"),
        ("columns = {'a.b' = {}}", "'a.b' is not a pattern", "write schema.table.column"),
        (
            "columns = {'a.b.c' = {zero_date = 'x'}}",
            "a.b.c: zero_date is 'x'",
            "allowed are null, epoch, -infinity, text, error",
        ),
        ("tables = {'a.b' = {invalid_text = 'x'}}", "a.b: there is no policy", "the policies are"),
    ],
)
def test_an_error_names_the_key_and_the_allowed_values(
    tmp_path: Path, values: str, message: str, hint: str
) -> None:
    error = refused(tmp_path, values)
    assert message in error.message
    assert hint in error.hint
