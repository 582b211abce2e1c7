"""
Dates and times of the log as canonical text, for every storage format.

They travel as text because Python's types cannot hold every value of the servers: ``0000-00-00``,
``2020-02-00``, 838 hours. Whole values seldom repeat, but their parts do. An expression therefore
cuts a value into parts of a few bits, each the index of a small table of prepared texts, so its
cost does not depend on the range of the values. The texts of months and of days since 1970 are made
on first use and kept (``PackedText``).

The expression of ``DATE``, for example, is::

    f'{years[raw1 << 7 | raw0 >> 9]}{month_days[raw0 & 511]}'

A negative ``TIME`` is read by a generated function. For ``TIME(2)`` it is::

    def negative_time(raw0, raw1, raw2):
        packed = 2147483648 - ((raw0 << 24) | (raw1 << 8) | (raw2 << 0))
        clock = packed >> 8
        return f'-{hours[clock >> 12]}{minute_seconds[clock & 4095]}.{digits2[(packed & 255)]}'

The formats are those of the MySQL Internals Manual, "Date and Time Data Type Representation"
(old: before 5.6.4; new: ``TIMESTAMP2``, ``DATETIME2``, ``TIME2``), and of MariaDB 5.3's
microseconds, which share their type codes with the old ones and differ by the column's precision.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Literal

from engine.toolkit.codegen import compile_function
from sources.mysql.codec.values import big_endian, digit_texts, digits_expression

__all__ = ["PackedText", "temporal_expression"]

DATE, TIME, DATETIME, TIMESTAMP = 10, 11, 12, 7
TIMESTAMP2, DATETIME2, TIME2 = 17, 18, 19

_ENTRIES = 1 << 17
_MOST_DIGITS = 6
_EPOCH = date(1970, 1, 1)
# MariaDB 5.3's sizes in bytes by digits of the fraction.
_HIRES_TIME = (3, 4, 4, 5, 5, 5, 6)
_HIRES_DATETIME = (5, 6, 6, 7, 7, 7, 8)
_HIRES_FRACTION = (0, 1, 1, 2, 2, 3, 3)
_TIME_ZERO_POINT_SECONDS = 838 * 3600 + 59 * 60 + 59 + 1


class PackedText(dict[Any, str]):
    """Packed value → text, made by ``text`` on first use and kept; bounded."""

    def __init__(self, text: Callable[[Any], str]) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, packed: Any) -> str:
        if len(self) >= _ENTRIES:
            self.clear()
        text = self[packed] = self._text(packed)
        return text


Reader = Callable[[bytes], str] | PackedText
Expression = tuple[Literal["<", ">"], str, str, dict[str, Any]]


def _month(packed: int) -> str:
    """The upper 18 bits of DATETIME2: a sign that is always set, 13 · year + month."""
    months = packed - (1 << 17)
    if months < 0:
        raise ValueError("the datetime is before the year 0")
    return f"{months // 13:04d}-{months % 13:02d}-"


def _day(days: int) -> str:
    return f"{_EPOCH + timedelta(days)} "


def _texts(form: str, *sizes: int) -> tuple[str, ...]:
    """The format ``form``, applied to all combinations of numbers below ``sizes``."""
    numbers = itertools.product(*map(range, sizes))
    return tuple(itertools.starmap(form.format, numbers))


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    """The globals of the expressions; made when the first column needs them."""
    return {
        "months": PackedText(_month),
        "days": PackedText(_day),
        "years": _texts("{:04d}-", 10000),
        "month_days": _texts("{:02d}-{:02d}", 16, 32),
        "day_hours": _texts("{:02d} {:02d}:", 32, 32),
        "hours": _texts("{:02d}:", 2048),
        "day_minutes": _texts("{:02d}:{:02d}:", 24, 60),
        "minute_seconds": _texts("{:02d}:{:02d}", 64, 64),
        "seconds": digit_texts(2),
    }


def _time_of_day(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _fraction(value: int, digits: int) -> str:
    return f".{value:0{digits}d}" if digits else ""


def _fraction_bytes(digits: int) -> int:
    """The size of a fraction; an odd number of digits is stored with one more digit."""
    return (digits + 1) // 2


@lru_cache(maxsize=64)
def temporal_expression(wire: int, digits: int) -> Expression:
    """Byte order and struct codes of a column's values, the expression that makes canonical text
    from the unpacked values (``raw0``, …), and its names.

    ``digits`` is the number of digits of the fraction that the column declares.
    """
    if wire == DATE:
        # 15 bits year, 4 month, 5 day
        expression = "f'{years[raw1 << 7 | raw0 >> 9]}{month_days[raw0 & 511]}'"
        return "<", "HB", expression, _tables()
    if wire in _PACKED:
        return _packed(wire, digits)
    name = f"temporal_{wire}_{digits}"
    reader = _OLD[wire](digits)
    expression = f"{name}[raw0]" if isinstance(reader, PackedText) else f"{name}(raw0)"
    return "<", f"{_old_size(wire, digits)}s", expression, {name: reader}


_SECONDS = (
    "(f'{days[raw0 // 86400]}{day_minutes[(v := raw0 % 86400) // 60]}{seconds[v % 60]}"
    "FRACTION' if ANY else '0000-00-00 00:00:00ZERO')"
)
# Struct codes of the part before the fraction, and the expression. DATETIME2: months, day (5 bits),
# hour (5), minute (6), second (6). TIME2: a bit that is set unless negative, hour (11), minute (6),
# second (6). TIMESTAMP2, and TIMESTAMP with or without MariaDB 5.3's fraction: seconds since 1970.
_PACKED = {
    DATETIME2: (
        "HBH",
        (
            "f'{months[raw0 << 2 | raw1 >> 6]}{day_hours[(raw1 & 63) << 4 | raw2 >> 12]}"
            "{minute_seconds[raw2 & 4095]}FRACTION'"
        ),
    ),
    TIMESTAMP2: ("I", _SECONDS),
    TIMESTAMP: ("I", _SECONDS),
    TIME2: (
        "BH",
        (
            "(f'{hours[(raw0 & 127) << 4 | raw1 >> 12]}{minute_seconds[raw1 & 4095]}FRACTION'"
            " if raw0 > 127 else negative_timeDIGITS(ALL))"
        ),
    ),
}


def _packed(wire: int, digits: int) -> Expression:
    if digits > _MOST_DIGITS:
        raise ValueError(f"a fraction of {digits} digits is invalid")
    codes, expression = _PACKED[wire]
    more, fraction, names = _fraction_expression(wire, digits, len(codes))
    codes, names = codes + more, _tables() | names
    raws = [f"raw{number}" for number in range(len(codes))]
    for name, text in (
        ("FRACTION", fraction),
        ("ZERO", _fraction(0, digits)),
        ("DIGITS", str(digits)),
        ("ANY", " or ".join(raws)),
        ("ALL", ", ".join(raws)),
    ):
        expression = expression.replace(name, text)
    if wire == TIME2:
        names[f"negative_time{digits}"] = _negative_time(digits, codes)
    # Only the oldest format is little endian.
    return "<" if (wire, digits) == (TIMESTAMP, 0) else ">", codes, expression, names


def _fraction_expression(wire: int, digits: int, first: int) -> tuple[str, str, dict[str, Any]]:
    """Struct codes of a fraction, the inside of an f-string that prints it, and its names.

    ``raw<first>`` is the first value that the codes unpack to.
    """
    if not digits:
        return "", "", {}
    if wire == TIMESTAMP:
        codes, number = big_endian(_HIRES_FRACTION[digits], first)
    else:
        codes, number = big_endian(_fraction_bytes(digits), first)
        number = f"{number} // 10" if digits % 2 else number
    text, names = digits_expression(number, digits)
    return codes, f".{text}", names


def _negative_time(digits: int, codes: str) -> Callable[..., str]:
    """The function for negative values: value and fraction are one number, subtracted from the
    number that stands for zero.
    """
    bits = 8 * _fraction_bytes(digits)
    shift, parts = 24 + bits, []
    for number, code in enumerate(codes):
        shift -= 8 * struct.calcsize(f">{code}")
        parts.append(f"(raw{number} << {shift})")
    stored = f"(packed & {(1 << bits) - 1})"
    fraction, names = "", _tables()
    if digits:
        text, more = digits_expression(f"{stored} // 10" if digits % 2 else stored, digits)
        fraction, names = f".{text}", names | more
    source = f"""
def negative_time({", ".join(f"raw{number}" for number in range(len(codes)))}):
    packed = {0x800000 << bits} - ({" | ".join(parts)})
    clock = packed >> {bits}
    return f'-{{hours[clock >> 12]}}{{minute_seconds[clock & 4095]}}{fraction}'
"""
    return compile_function("negative_time", source, names)


def _old_size(wire: int, digits: int) -> int:
    """The size of a value in the formats before MySQL 5.6 and in MariaDB 5.3's."""
    if wire == TIME:
        return _HIRES_TIME[digits]
    return _HIRES_DATETIME[digits] if digits else 8


def _old_time(digits: int) -> Reader:
    if digits:
        return _hires_time(digits)

    def text(data: bytes) -> str:
        """Three bytes, little endian, signed: decimal HHHMMSS."""
        packed = int.from_bytes(data, "little", signed=True)
        sign, packed = ("-", -packed) if packed < 0 else ("", packed)
        return f"{sign}{packed // 10000:02d}:{packed // 100 % 100:02d}:{packed % 100:02d}"

    return PackedText(text)


def _old_datetime(digits: int) -> Callable[[bytes], str]:
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


def _hires_time(digits: int) -> Callable[[bytes], str]:
    unit = 10**digits

    def text(data: bytes) -> str:
        """Big endian: fractions of a second since a zero point that is below all values."""
        count = int.from_bytes(data, "big") - _TIME_ZERO_POINT_SECONDS * unit
        sign, count = ("-", -count) if count < 0 else ("", count)
        seconds, fraction = divmod(count, unit)
        return f"{sign}{_time_of_day(seconds)}{_fraction(fraction, digits)}"

    return text


def _hires_datetime(digits: int) -> Callable[[bytes], str]:
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


_OLD: dict[int, Callable[[int], Reader]] = {
    TIME: _old_time,
    DATETIME: _old_datetime,
}
