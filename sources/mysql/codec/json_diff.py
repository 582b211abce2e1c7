"""
Changed parts of JSON documents, as ``binlog_row_value_options = PARTIAL_JSON`` logs them.

An update of a document by JSON_SET, JSON_REPLACE and JSON_REMOVE is logged as a list of diffs. Each
one replaces, inserts or removes one value at a path. They are applied to the text of the document
before the update, so all of the text that they do not name stays what the server prints. The
standard library's scanner, which is in C, finds the end of each value.

The format is that of MySQL's ``Json_diff_vector``: for each diff the operation in one byte, the
path as text, and the value in binary JSON if there is one, both after their packed length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from json.decoder import JSONDecoder
from json.encoder import encode_basestring as quoted
from typing import Final, NamedTuple

from sources.mysql.codec.binary_json import json_text

__all__ = ["document_after"]

_REPLACE: Final = 0
_INSERT: Final = 1
_REMOVE: Final = 2
#: The first byte of a length that takes more bytes → their number.
_LENGTHS: Final = {252: 2, 253: 3, 254: 8}
_NAME: Final = re.compile(r"[^.\[]+")
_CELL: Final = re.compile(r"\[(last-?)?(\d*)\]")
_SEPARATOR: Final = ", "
#: ``(text, start)`` → value and end. Numbers stay text, which is faster and has no limit.
_scan = JSONDecoder(parse_int=str, parse_float=str, strict=False).raw_decode


class _Child(NamedTuple):
    """A member or an element in a text: its name, where it starts, where its value does and ends.

    An element has an empty name.
    """

    name: str
    start: int
    value: int
    end: int


class _Cell(NamedTuple):
    """The place of an element, counted from the first one, or back from the last one."""

    number: int
    back: bool

    def place(self, length: int) -> int:
        """The index in an array of ``length`` elements; -1 if it is before the first one."""
        return max(-1, length - 1 - self.number) if self.back else self.number


_Leg = str | _Cell


def document_after(
    before: str | None,
    data: bytes,
    partial: int,
    text: Callable[[bytes], str] = json_text,
) -> str:
    """The text of a document after an update.

    ``data`` holds the diffs to ``before`` if ``partial`` is 1, and the whole document if it is 0.
    ``text`` makes the text of binary JSON.
    Raises ValueError, IndexError, KeyError or struct.error if the diffs are damaged, or are not
    those of this document.
    """
    if not partial:
        return text(data)
    if before is None:
        raise ValueError("changed parts of a document that was NULL")
    at = 0
    while at < len(data):
        operation = data[at]
        path, at = _packed(data, at + 1)
        value = ""
        if operation != _REMOVE:
            binary, at = _packed(data, at)
            value = text(binary)
        before = _apply(before, operation, list(_legs(path.decode())), value)
    return before


def _packed(data: bytes, at: int) -> tuple[bytes, int]:
    """The bytes after their packed length at ``data[at]``, and the position after them."""
    length, start = data[at], at + 1
    if length > 250:
        start += _LENGTHS[length]
        length = int.from_bytes(data[at + 1 : start], "little")
    if start + length > len(data):
        raise ValueError("changed parts of a document are cut off")
    return data[start : start + length], start + length


def _legs(path: str) -> Iterator[_Leg]:
    """The names and cells of a path such as ``$.a[3]."b c"[last-1]``."""
    at = 1
    while at < len(path):
        if path.startswith('."', at):
            name, at = _scan(path, at + 1)
            yield name
            continue
        found = _NAME.match(path, at + 1) if path[at] == "." else _CELL.match(path, at)
        if found is None:
            raise ValueError("the path of a changed part is invalid")
        at = found.end()
        yield found[0] if found.re is _NAME else _Cell(int(found[2] or 0), bool(found[1]))


def _apply(text: str, operation: int, legs: list[_Leg], value: str) -> str:
    """The document ``text`` after one diff."""
    at = 0
    *parents, last = legs
    for leg in parents:
        at = _find(_children(text, at), leg).value
    children = _children(text, at)
    if operation == _REPLACE:
        child = _find(children, last)
        return text[: child.value] + value + text[child.end :]
    if operation == _INSERT:
        return _insert(text, at, children, last, value)
    if operation != _REMOVE:
        raise ValueError("a change of a document is of an unknown kind")
    child = _find(children, last)
    start, end = child.start, child.end
    if child is not children[-1]:
        end += len(_SEPARATOR)
    elif len(children) > 1:
        start -= len(_SEPARATOR)
    return text[:start] + text[end:]


def _insert(text: str, at: int, children: list[_Child], leg: _Leg, value: str) -> str:
    """Insert a value into the container at ``text[at]``: a new member, or an element."""
    if isinstance(leg, str) != (text[at] == "{"):
        raise ValueError("a changed part of a document is not there")
    if isinstance(leg, str):
        if any(child.name == leg for child in children):
            raise ValueError("a new part of a document is already there")
        # The server sorts members by the length of their names in bytes, then by the bytes.
        rank = _rank(leg)
        index = sum(_rank(child.name) < rank for child in children)
        value = f"{quoted(leg)}: {value}"
    else:
        index = min(max(0, leg.place(len(children))), len(children))
    if not children:
        return text[: at + 1] + value + text[at + 1 :]
    if index < len(children):
        start = children[index].start
        return text[:start] + value + _SEPARATOR + text[start:]
    end = children[-1].end
    return text[:end] + _SEPARATOR + value + text[end:]


def _rank(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded


def _find(children: list[_Child], leg: _Leg) -> _Child:
    """The child that a leg names. Raises ValueError or IndexError."""
    if isinstance(leg, str):
        for child in children:
            if child.name == leg and child.start != child.value:
                return child
    elif (index := leg.place(len(children))) >= 0 and children[0].start == children[0].value:
        return children[index]
    raise ValueError("a changed part of a document is not there")


def _children(text: str, at: int) -> list[_Child]:
    """The members or elements of the container at ``text[at]``; of a scalar there are none."""
    if text[at] not in "{[":
        raise ValueError("a changed part of a document is not there")
    named = text[at] == "{"
    children: list[_Child] = []
    at += 1
    while text[at] not in "}]":
        if children:
            at += len(_SEPARATOR)
        start, name = at, ""
        if named:
            name, at = _scan(text, at)
            at += len(": ")
        _, end = _scan(text, at)
        children.append(_Child(name, start, at, end))
        at = end
    return children
