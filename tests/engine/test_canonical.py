"""
The canonical texts that values are compared by.
"""

from __future__ import annotations

from engine.toolkit.canonical import canonical_json, day_or_none, interval_text, number_text


def test_canonical_forms() -> None:
    assert [number_text(text) for text in ("-0.00", "007.10", ".5", "-12", "100")] == [
        "0", "7.1", "0.5", "-12", "100",
    ]  # fmt: skip
    assert [interval_text(text) for text in ("-0:00:00", "100:00:00.5", "1:02:03")] == [
        "00:00:00.000000", "100:00:00.500000", "01:02:03.000000",
    ]  # fmt: skip
    assert [interval_text(text) for text in ("1 day", "1 mon")] == ["1 day", "1 mon"]
    days = ("2000-02-29", "1900-02-29", "2020-13-01")
    assert [day_or_none(day) is not None for day in days] == [True, False, False]
    equal = ['{"a": 1.0, "b": [1e2]}', '{"b":[100],"a":1}']
    assert len({canonical_json(text) for text in equal}) == 1
    assert canonical_json('["a\nb"]') == canonical_json(r'["a\nb"]')
    different = ["10000000000000000000001", "10000000000000000000002", '"1"', "1", '{"a": 1}']
    assert len({canonical_json(f"[{text}]") for text in different}) == len(different)


def test_documents_that_differ_have_other_texts() -> None:
    different = [
        *('{"a":1}', '{"a":2,"a":1}', '{"a":1,"a":2}', '{"a":1,"a":1}'),
        *(r'{"a":{"\u0000number":"1e0"}}', '{"a":{"number":"1e0"}}', '{"a":"1e0"}', '{"a":[1]}'),
        *('[["a",1]]', '{"object":[["a",1]]}', "NaN", '"NaN"', "[]", "{}", "null", '""'),
    ]
    assert len({canonical_json(text) for text in different}) == len(different)
    assert canonical_json('{"b":[],"a":1,"b":{}}') == canonical_json('{"a":1.0,"b":[],"b":{}}')
