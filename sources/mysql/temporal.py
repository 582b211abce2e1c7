"""
Dates and times of the log as canonical text, in every storage format there has been.

Text, because it alone holds what the servers hold: ``0000-00-00``, ``2020-02-00``, 838 hours. The
parts of a value repeat, so packed integers are looked up in dictionaries that fill themselves: a
date costs one lookup, a time of day another.

The formats are those of the MySQL Internals Manual, "Date and Time Data Type Representation"
(old: before 5.6.4; new: ``TIMESTAMP2``, ``DATETIME2``, ``TIME2``), and of MariaDB 5.3's
microseconds, which share their type codes with the old ones and differ by the column's precision.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from engine.codegen import compile_function

__all__ = ["PackedText", "fixed_size", "temporal_expression"]

DATE, TIME, DATETIME, TIMESTAMP = 10, 11, 12, 7
TIMESTAMP2, DATETIME2, TIME2 = 17, 18, 19

_ENTRIES = 1 << 17  # a day has 86,400 seconds
_EPOCH = date(1970, 1, 1)
# MariaDB 5.3's sizes in bytes by digits of the fraction.
_HIRES_TIME = (3, 4, 4, 5, 5, 5, 6)
_HIRES_DATETIME = (5, 6, 6, 7, 7, 7, 8)
_HIRES_FRACTION = (0, 1, 1, 2, 2, 3, 3)
_TIME_ZERO_POINT_SECONDS = 838 * 3600 + 59 * 60 + 59 + 1


class PackedText(dict[Any, str]):
    """Packed value → text, computed once by ``text`` and remembered; bounded."""

    def __init__(self, text: Callable[[Any], str]) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, packed: Any) -> str:
        if len(self) >= _ENTRIES:
            self.clear()
        text = self[packed] = self._text(packed)
        return text


def _old_date(data: bytes) -> str:
    """Three bytes, little endian: 15 bits year, 4 month, 5 day."""
    packed = int.from_bytes(data, "little")
    return f"{packed >> 9:04d}-{packed >> 5 & 15:02d}-{packed & 31:02d}"


def _date_of_datetime2(packed: int) -> str:
    """The upper 23 bits: a sign that is always set, 13 · year + month, 5 bits day."""
    months, day = divmod(packed - (1 << 22), 32)
    if months < 0:
        raise ValueError("a datetime before the year 0")
    return f"{months // 13:04d}-{months % 13:02d}-{day:02d} "


def _clock(packed: int) -> str:
    """5 bits hour, 6 minute, 6 second."""
    return f"{packed >> 12:02d}:{packed >> 6 & 63:02d}:{packed & 63:02d}"


def _day(days: int) -> str:
    return f"{_EPOCH + timedelta(days)} "


def _time_of_day(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


_OLD_DATES = PackedText(_old_date)
_DATES2 = PackedText(_date_of_datetime2)
_CLOCKS = PackedText(_clock)
_DAYS = PackedText(_day)
_TIMES_OF_DAY = PackedText(_time_of_day)


def _fraction(value: int, digits: int) -> str:
    return f".{value:0{digits}d}" if digits else ""


def _fraction_bytes(digits: int) -> int:
    return (digits + 1) // 2


def fixed_size(wire: int, digits: int) -> int:
    """Bytes that a value takes in the log; ``digits`` of the fraction as the column declares."""
    if wire == DATE:
        return 3
    if wire in (TIMESTAMP2, DATETIME2, TIME2):
        return {TIMESTAMP2: 4, DATETIME2: 5, TIME2: 3}[wire] + _fraction_bytes(digits)
    if wire == TIME:
        return _HIRES_TIME[digits]
    if wire == DATETIME:
        return _HIRES_DATETIME[digits] if digits else 8
    return 4 + _HIRES_FRACTION[digits]


def temporal_expression(wire: int, digits: int, raw: str) -> tuple[str, dict[str, Any]]:
    """Python text that makes canonical text of the ``fixed_size`` bytes ``raw``, and its names."""
    if wire == DATE:
        return f"old_dates[{raw}]", {"old_dates": _OLD_DATES}
    maker = _MAKERS[wire]
    function = maker(digits)
    if isinstance(function, PackedText):
        name = f"times_{wire}_{digits}"
        return f"{name}[{raw}]", {name: function}
    name = f"temporal_{wire}_{digits}"
    return f"{name}({raw})", {name: function}


Maker = Callable[[bytes], str] | PackedText


def _generated(source: str, digits: int, names: dict[str, Any]) -> Callable[[bytes], str]:
    """A reader with its constants in place: ``BITS``, ``MASK`` of the fraction, ``FRACTION``.

    Fractions with an odd number of digits are stored with one more.
    """
    bits = 8 * _fraction_bytes(digits)
    stored = f"(packed & {(1 << bits) - 1})" + (" // 10" if digits % 2 else "")
    source = source.replace("FRACTION", f".{{{stored}:0{digits}d}}" if digits else "")
    source = source.replace("BITS", str(bits))
    return compile_function("text", source, {"from_bytes": int.from_bytes, **names})


_DATETIME2 = """
def text(data):
    packed = from_bytes(data, 'big')
    whole = packed >> BITS
    return f'{dates[whole >> 17]}{clocks[whole & 131071]}FRACTION'
"""
_TIMESTAMP2 = """
def text(data):
    packed = from_bytes(data, 'big')
    if not packed:
        return zero
    day, second = divmod(packed >> BITS, 86400)
    return f'{days[day]}{times[second]}FRACTION'
"""
_TIME2 = """
def text(data):
    packed = from_bytes(data, 'big') - (8388608 << BITS)
    if packed >= 0:
        return f'{clocks[packed >> BITS]}FRACTION'
    packed = -packed
    return f'-{clocks[packed >> BITS]}FRACTION'
"""


@lru_cache(maxsize=8)
def _datetime2(digits: int) -> Maker:
    return _generated(_DATETIME2, digits, {"dates": _DATES2, "clocks": _CLOCKS})


@lru_cache(maxsize=8)
def _timestamp2(digits: int) -> Maker:
    zero = "0000-00-00 00:00:00" + _fraction(0, digits)
    return _generated(_TIMESTAMP2, digits, {"days": _DAYS, "times": _TIMES_OF_DAY, "zero": zero})


@lru_cache(maxsize=8)
def _time2(digits: int) -> Maker:
    text = _generated(_TIME2, digits, {"clocks": _CLOCKS})
    return text if digits else PackedText(text)


def _old_time(digits: int) -> Maker:
    if digits:
        return _hires_time(digits)

    def text(data: bytes) -> str:
        """Three bytes, little endian, signed: decimal HHHMMSS."""
        packed = int.from_bytes(data, "little", signed=True)
        sign, packed = ("-", -packed) if packed < 0 else ("", packed)
        return f"{sign}{packed // 10000:02d}:{packed // 100 % 100:02d}:{packed % 100:02d}"

    return PackedText(text)


def _old_datetime(digits: int) -> Maker:
    if digits:
        return _hires_datetime(digits)

    def text(data: bytes) -> str:
        """Eight bytes, little endian: decimal YYYYMMDDHHMMSS."""
        day, time = divmod(int.from_bytes(data, "little"), 1_000_000)
        return (
            f"{day // 10000:04d}-{day // 100 % 100:02d}-{day % 100:02d} "
            f"{time // 10000:02d}:{time // 100 % 100:02d}:{time % 100:02d}"
        )

    return text


def _old_timestamp(digits: int) -> Maker:
    whole: Any = _timestamp2(0)
    if not digits:
        return lambda data: whole(data[::-1])

    def text(data: bytes) -> str:
        """Seconds as four bytes, then the fraction's digits as a number, both big endian."""
        fraction = _fraction(int.from_bytes(data[4:], "big"), digits)
        if not int.from_bytes(data, "big"):
            return f"0000-00-00 00:00:00{fraction}"
        day, second = divmod(int.from_bytes(data[:4], "big"), 86400)
        return f"{_day(day)}{_time_of_day(second)}{fraction}"

    return text


def _hires_time(digits: int) -> Maker:
    unit = 10**digits

    def text(data: bytes) -> str:
        """A count of fractions of a second, big endian, from a zero point below all values."""
        count = int.from_bytes(data, "big") - _TIME_ZERO_POINT_SECONDS * unit
        sign, count = ("-", -count) if count < 0 else ("", count)
        seconds, fraction = divmod(count, unit)
        return f"{sign}{_time_of_day(seconds)}{_fraction(fraction, digits)}"

    return text


def _hires_datetime(digits: int) -> Maker:
    unit = 10**digits

    def text(data: bytes) -> str:
        """Mixed radix, big endian: year, month (13), day (32), hour, minute, second, fraction."""
        count, fraction = divmod(int.from_bytes(data, "big"), unit)
        days, second = divmod(count, 86400)
        months, day = divmod(days, 32)
        return (
            f"{months // 13:04d}-{months % 13:02d}-{day:02d} "
            f"{_time_of_day(second)}{_fraction(fraction, digits)}"
        )

    return text


_MAKERS: dict[int, Callable[[int], Maker]] = {
    TIME: _old_time,
    DATETIME: _old_datetime,
    TIMESTAMP: _old_timestamp,
    TIMESTAMP2: _timestamp2,
    DATETIME2: _datetime2,
    TIME2: _time2,
}
