"""
The character sets of MySQL and MariaDB: the charset of each collation id, and the decoding of bytes
to text.

Most charsets use a codec of Python. Where the codec differs from the conversion of the servers
(``CONVERT(… USING utf16)``), the tables in this module correct it; a test compares the result with
the servers, in both directions. Bytes without a character raise UnicodeDecodeError, unless the
caller names a substitute (``errors``): the servers show a question mark, and the bytes would be
lost silently.
"""

# ruff: noqa: RUF001  (the tables contain look-alike characters)

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, Final, Literal, TypeAlias

from engine.errors import DecodeError

__all__ = [
    "BYTES_PER_CHARACTER",
    "Errors",
    "Substitute",
    "collation_charset",
    "is_ambiguous",
    "is_single_byte",
    "may_be_hidden",
    "may_be_invalid",
    "text_decoder",
    "text_encoder",
    "text_expression",
]

#: Makes the text that stands for bytes without a character.
Substitute: TypeAlias = Callable[[bytes], str]
#: What a decoder does with bytes without a character. ``strict`` raises UnicodeDecodeError, whose
#: ``start`` is the first such byte; ``replace`` writes one question mark, as the servers do;
#: ``escape`` writes each byte as ``\\x98``. A function makes the text itself.
Errors: TypeAlias = Literal["strict", "replace", "escape"] | Substitute

# Collation ids by charset: information_schema.COLLATIONS of MySQL 9.7 and of MariaDB 11.8, which do
# not contradict each other.
_COLLATIONS = """
armscii8 32,64,1056,1088
ascii 11,65,1035,1089
big5 1,84,1025,1108
binary 63
cp1250 26,34,44,66,99,1050,1090
cp1251 14,23,50-52,1074-1075
cp1256 57,67,1081,1091
cp1257 29,58-59,1082-1083
cp850 4,80,1028,1104
cp852 40,81,1064,1105
cp866 36,68,1060,1092
cp932 95-96,1119-1120
dec8 3,69,1027,1093
eucjpms 97-98,1121-1122
euckr 19,85,1043,1109
gb18030 248-250
gb2312 24,86,1048,1110
gbk 28,87,1052,1111
geostd8 92-93,1116-1117
greek 25,70,1049,1094
hebrew 16,71,1040,1095
hp8 6,72,1030,1096
keybcs2 37,73,1061,1097
koi8r 7,74,1031,1098
koi8u 22,75,1046,1099
latin1 5,8,15,31,47-49,94,1032,1071
latin2 2,9,21,27,77,1033,1101
latin5 30,78,1054,1102
latin7 20,41-42,79,1065,1103
macce 38,43,1062,1067
macroman 39,53,1063,1077
sjis 13,88,1037,1112
swe7 10,82,1034,1106
tis620 18,89,1042,1113
ucs2 35,90,128-151,159,640-642,1059,1114,1152,1174,2560-2815
ujis 12,91,1036,1115
utf16 54-55,101-124,672-674,1078-1079,1125,1147,2816-3071
utf16le 56,62,1080,1086
utf32 60-61,160-183,736-738,1084-1085,1184,1206,3072-3327
utf8mb3 33,76,83,192-215,223,576-579,1057,1107,1216,1238,2048-2303
utf8mb4 45-46,224-247,255-323,608-611,1069-1070,1248,1270,2304-2559
"""


def _collations() -> dict[int, str]:
    charsets = {}
    for line in _COLLATIONS.split("\n")[1:-1]:
        charset, ranges = line.split()
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            charsets.update(dict.fromkeys(range(int(first), int(last or first) + 1), charset))
    return charsets


_CHARSETS = _collations()

#: The maximum number of bytes of a character, by charset.
BYTES_PER_CHARACTER = (
    dict.fromkeys(_CHARSETS.values(), 1)
    | dict.fromkeys(("big5", "cp932", "euckr", "gb2312", "gbk", "sjis", "ucs2"), 2)
    | dict.fromkeys(("eucjpms", "ujis", "utf8mb3"), 3)
    | dict.fromkeys(("gb18030", "utf16", "utf16le", "utf32", "utf8mb4"), 4)
)


def collation_charset(collation: int) -> str:
    """The charset of a collation id. Raises DecodeError if neither server has it."""
    try:
        return _CHARSETS[collation]
    except KeyError as error:
        raise DecodeError(
            f"the collation id {collation} is unknown",
            hint="Change the column's collation to one that the server has built in.",
        ) from error


# Charsets for which Python has an equal codec.
_SAME = {
    "ascii": "ascii",
    "euckr": "cp949",
    "gb2312": "gb2312",
    "gbk": "gbk",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
}

_UNDEFINED = "\ufffe"
# Single-byte charsets: Python's codec, and the characters of the servers where they differ, by the
# first byte of each run.
_SINGLE: dict[str, tuple[str, dict[int, str]]] = {
    "cp1250": ("cp1250", {}),
    "cp1251": ("cp1251", {}),
    "cp1256": ("cp1256", {}),
    "cp1257": ("cp1257", {}),
    "cp850": ("cp850", {}),
    "cp852": ("cp852", {}),
    "cp866": ("cp866", {0xFC: "ⁿ²"}),
    "greek": ("iso8859_7", {0xA1: "\u02bd\u02bc"}),
    "hebrew": ("iso8859_8", {0xAF: "‾"}),
    "koi8r": ("koi8_r", {}),
    "koi8u": ("koi8_u", {0x95: "•"}),
    "latin1": (
        "cp1252",
        {byte: chr(byte) for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)},
    ),
    "latin2": ("iso8859_2", {}),
    "latin5": ("iso8859_9", {}),
    "latin7": ("iso8859_13", {}),
    "macce": ("mac_latin2", {}),
    "macroman": ("mac_roman", {}),
    "tis620": ("tis_620", {}),
    "armscii8": (
        "latin_1",
        {
            0xA1: "❁§։)(»«—.՝,-՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշՈոՉչՊպՋջՌռՍսՎվ"
            "ՏտՐրՑցՒւՓփՔքՕօՖֆ’'"
        },
    ),
    "dec8": (
        "latin_1",
        {
            **dict.fromkeys(
                (0xA4, 0xA6, 0xAC, 0xAD, 0xAE, 0xAF, 0xB4, 0xB8, 0xBE, 0xD0, 0xDE, 0xF0),
                _UNDEFINED,
            ),
            0xA8: "¤",
            0xD7: "Œ",
            0xDD: "Ÿ",
            0xF7: "œ",
            0xFD: "ÿ" + 2 * _UNDEFINED,
        },
    ),
    "geostd8": (
        "latin_1",
        {
            0x80: "€\ufffe‚\ufffe„…†‡\ufffe‰\ufffe‹\ufffe\ufffe\ufffe\ufffe\ufffe‘’“”•–—"
            "\ufffe\ufffe\ufffe›\ufffe\ufffe\ufffe\ufffe",
            0xC0: "აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწჭხჴჯჰჵ" + 23 * _UNDEFINED + "№" + 2 * _UNDEFINED,
        },
    ),
    "hp8": (
        "latin_1",
        {
            0xA1: "ÀÂÈÊËÎÏ´ˋˆ¨˜ÙÛ₤¯Ýý°ÇçÑñ¡¿¤£¥§ƒ¢âêôûáéóúàèòùäëöüÅîØÆåíøæÄìÖÜÉïßÔÁÃãÐðÍÌÓÒÕõŠšÚ"
            "ŸÿÞþ·µ¶¾—¼½ªº«■»±\ufffe"
        },
    ),
    "keybcs2": (
        "latin_1",
        {
            0x80: "ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘťáíóúňŇŮÔšřŕŔ¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬"
            "╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\xa0"
        },
    ),
    "swe7": ("latin_1", {0x40: "É", 0x5B: "ÄÖÅÜ", 0x60: "é", 0x7B: "äöåü" + 129 * _UNDEFINED}),
}


@lru_cache(maxsize=64)
def _single_byte_table(charset: str) -> str:
    """The character of each of the 256 bytes; ``_UNDEFINED`` for an undefined byte."""
    codec, differences = _SINGLE[charset]
    table = [
        bytes([byte]).decode(codec, "replace").replace("\ufffd", _UNDEFINED) for byte in range(256)
    ]
    for start, text in differences.items():
        table[start : start + len(text)] = text
    return "".join(table)


def _sjis(data: bytes) -> str:
    return data.decode("shift_jis").replace("＼", "\\")


_NOT_CP932 = re.compile("[\x80\uf8f0-\uf8f3]")


def _cp932(data: bytes) -> str:
    text = data.decode("cp932")
    # The codec also decodes the bytes 80, A0, FD, FE and FF, which the servers do not have.
    found = _NOT_CP932.search(text)
    if found:
        start = len(text[: found.start()].encode("cp932"))
        raise UnicodeDecodeError("cp932", data, start, start + 1, "undefined byte")
    return text


def _big5(data: bytes) -> str:
    return data.decode("big5", "tailrace-big5")


def _ujis(data: bytes) -> str:
    return data.decode("euc_jp", "tailrace-ujis").replace("＼", "\\")


_EUCJPMS = str.maketrans("〜‖−¢£¬¦", "～∥－￠￡￢￤")


def _eucjpms(data: bytes) -> str:
    # The codec decodes SS3 A2B7 to an ASCII tilde, the servers to the full-width one, which the
    # translation makes of A1C1.
    data = data.replace(b"\x8f\xa2\xb7", b"\xa1\xc1")
    return data.decode("euc_jp", "tailrace-eucjpms").translate(_EUCJPMS)


# Two assignments of GB 18030-2000 that the 2005 edition swapped. MySQL has those of 2005; older
# versions of Python have those of 2000.
_GB18030 = str.maketrans("\ue7c7\u1e3f", "\u1e3f\ue7c7")
_GB18030_IS_OLD = b"\xa8\xbc".decode("gb18030") == "\ue7c7"


def _gb18030(data: bytes) -> str:
    text = data.decode("gb18030")
    return text.translate(_GB18030) if _GB18030_IS_OLD else text


def _more_of_big5(pair: bytes) -> str:
    """The seven ETEN characters that Python's codec does not have."""
    return pair[:2].decode("cp950") if b"\xf9\xd6" <= pair[:2] <= b"\xf9\xdc" else ""


def _more_of_ujis(found: bytes) -> str:
    """Rows 85 to 94 of both planes, which are the private use area."""
    if len(found) >= 2 and 0xF5 <= found[0] <= 0xFE and 0xA1 <= found[1] <= 0xFE:
        return chr(0xE000 + (found[0] - 0xF5) * 94 + found[1] - 0xA1)
    if len(found) == 3 and 0xF5 <= found[1] <= 0xFE and 0xA1 <= found[2] <= 0xFE:
        return chr(0xE3AC + (found[1] - 0xF5) * 94 + found[2] - 0xA1)
    return ""


_IBM = (
    "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ＇＂㈱№℡炻仼僴凬匇匤﨎咊坙﨏塚增寬峵嵓"
    "﨑德悅愠敎昻晥晴朗栁﨓﨔橫櫢淸淲瀨凞猪甁皂皞益礰礼神祥福竧靖精綠緖羽荢﨟薰蘒﨡蠇"
    "諸譿賴赶﨣﨤逸郞都鄕﨧﨨閒隆﨩霻靍靑飯飼館馞髙魲鶴黑"
)


def _more_of_eucjpms(found: bytes) -> str:
    """The additions of ``ujis``, NEC's row 13, and IBM's extensions."""
    if len(found) >= 2 and found[0] == 0xAD and 0xA1 <= found[1] <= 0xFE:
        cell = found[1] - 0xA0
        return bytes((0x87, cell + 0x3F + (cell > 63))).decode("cp932")
    if len(found) == 3 and b"\x8f\xf3\xf3" <= found <= b"\x8f\xf4\xfe" and found[2] >= 0xA1:
        return _IBM[(found[1] - 0xF3) * 94 + found[2] - 0xF3]
    return _more_of_ujis(found)


def _extend(name: str, more: Callable[[bytes], str]) -> None:
    """Register an error handler that decodes characters that the codec does not have."""

    def handle(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        size = 3 if error.object[error.start] == 0x8F and name != "tailrace-big5" else 2
        text = more(error.object[error.start : error.start + size])
        if not text:
            raise error
        return text, error.start + size

    codecs.register_error(name, handle)


_extend("tailrace-big5", _more_of_big5)
_extend("tailrace-ujis", _more_of_ujis)
_extend("tailrace-eucjpms", _more_of_eucjpms)

_OWN: dict[str, Callable[[bytes], str]] = {
    "sjis": _sjis,
    "cp932": _cp932,
    "big5": _big5,
    "ujis": _ujis,
    "eucjpms": _eucjpms,
    "gb18030": _gb18030,
}

#: Codecs that write most characters of these charsets.
_CODECS: Final = {
    "big5": "big5",
    "cp932": "cp932",
    "eucjpms": "euc_jp",
    "gb18030": "gb18030",
    "sjis": "shift_jis",
    "ujis": "euc_jp",
}

# The sequences that the servers take for one character, with or without a meaning. They show one
# question mark for a sequence without a meaning, and one for each byte outside of a sequence.
_GBK: Final = rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]"
_SJIS: Final = rb"[\x81-\x9f\xe0-\xfc][\x40-\x7e\x80-\xfc]"
_EUC: Final = rb"\x8e[\xa1-\xdf]|\x8f?[\xa1-\xfe][\xa1-\xfe]"
_UTF8: Final = (
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]"
)
_SEQUENCES: Final = {
    "big5": rb"[\xa1-\xf9][\x40-\x7e\xa1-\xfe]",
    "cp932": _SJIS,
    "eucjpms": _EUC,
    "euckr": rb"[\x81-\xfe][\x41-\x5a\x61-\x7a\x81-\xfe]",
    "gb18030": _GBK + rb"|[\x81-\xfe][\x30-\x39][\x81-\xfe][\x30-\x39]",
    "gb2312": rb"[\xa1-\xf7][\xa1-\xfe]",
    "gbk": _GBK,
    "sjis": _SJIS,
    "ucs2": rb"..",
    "ujis": _EUC,
    "utf16": rb"[^\xd8-\xdf].|[\xd8-\xdb].[\xdc-\xdf].",
    "utf16le": rb".[^\xd8-\xdf]|.[\xd8-\xdb].[\xdc-\xdf]",
    "utf32": rb"\0[\0-\x10]..",
    "utf8mb3": _UTF8,
    "utf8mb4": (
        _UTF8 + rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
        rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
    ),
}
_SUBSTITUTES: Final[dict[str, Substitute]] = {
    "replace": lambda found: "?",
    "escape": lambda found: "".join(f"\\x{byte:02x}" for byte in found),
}


def text_expression(
    charset: str, raw: str, errors: Errors = "strict"
) -> tuple[str, dict[str, Any]]:
    """A Python expression that decodes the bytes ``raw``, and the names that it uses.

    Generated decoders contain it. For ``latin1`` and the name ``raw`` it is
    ``charmap_decode(raw, 'strict', table_latin1)[0]``. It raises UnicodeDecodeError for bytes
    without a character, unless ``errors`` says otherwise.
    """
    if errors != "strict":
        kind = errors if isinstance(errors, str) else f"{id(errors):x}"
        name = f"decode_{charset}_{kind}"
        return f"{name}({raw})", {name: _substituting(charset, errors)}
    if charset in ("utf8mb4", "utf8mb3"):
        return f"{raw}.decode()", {}
    if charset in _SAME:
        return f"{raw}.decode({_SAME[charset]!r})", {}
    if charset in _SINGLE:
        table = f"table_{charset}"
        return (
            f"charmap_decode({raw}, 'strict', {table})[0]",
            {"charmap_decode": codecs.charmap_decode, table: _single_byte_table(charset)},
        )
    if charset in _OWN:
        return f"decode_{charset}({raw})", {f"decode_{charset}": _OWN[charset]}
    raise DecodeError(
        f"the character set {charset!r} is unknown",
        hint="Change the column's character set to one that the server has built in.",
    )


@lru_cache(maxsize=64)
def text_decoder(charset: str, errors: Errors = "strict") -> Callable[[bytes], str]:
    """The function that evaluates ``text_expression``."""
    expression, names = text_expression(charset, "raw", errors)
    decoder: Callable[[bytes], str] = eval(f"lambda raw: {expression}", names)
    return decoder


@lru_cache(maxsize=64)
def may_be_invalid(charset: str) -> bool:
    """Whether some bytes are no character. In latin1, for example, all are."""
    return charset not in _SINGLE or _UNDEFINED in _single_byte_table(charset)


def may_be_hidden(charset: str) -> bool:
    """Whether the servers may show a question mark for bytes of a charset: for those that are no
    character, and for eight characters of cp1256."""
    return charset == "cp1256" or may_be_invalid(charset)


def is_single_byte(charset: str) -> bool:
    """Whether each character of a charset is one byte."""
    return charset in _SINGLE


@lru_cache(maxsize=64)
def is_ambiguous(charset: str) -> bool:
    """Whether several bytes of a charset may be one character."""
    return charset not in _SINGLE or len(set(_single_byte_table(charset))) < 256


@lru_cache(maxsize=64)
def text_encoder(charset: str) -> Callable[[str], bytes]:
    """The inverse of ``text_decoder``: it raises UnicodeEncodeError for a text that has none."""
    decode = text_decoder(charset)
    if charset in _SINGLE:
        table = _single_byte_table(charset)
        # Of several bytes of one character the servers take the lowest.
        firsts = (_UNDEFINED if it in table[:n] else it for n, it in enumerate(table))
        map = codecs.charmap_build("".join(firsts))
        return lambda text: codecs.charmap_encode(text, "strict", map)[0]
    codec = _CODECS.get(charset) or _SAME.get(charset, "utf-8")

    def encode(text: str) -> bytes:
        try:
            data = text.encode(codec)
        except UnicodeEncodeError:
            if charset not in _EXTENDED:
                raise
            added = _added(charset)
            data = b"".join(added.get(it) or it.encode(codec) for it in text)
        if decode(data) != text:
            raise UnicodeEncodeError(codec, text, 0, len(text), f"no character of {charset}")
        return data

    return encode


#: The charsets with characters that Python's codec does not have.
_EXTENDED: Final = ("big5", "eucjpms", "ujis")


@lru_cache(maxsize=8)
def _added(charset: str) -> dict[str, bytes]:
    """The bytes of the characters that Python's codec does not have."""
    decode, codec = text_decoder(charset), _CODECS.get(charset) or _SAME.get(charset, charset)
    added: dict[str, bytes] = {}
    for lead, *code in product((b"", b"\x8f"), range(0xA1, 0xFF), range(0x40, 0xFF)):
        data = lead + bytes(code)
        try:
            character = decode(data)
        except UnicodeDecodeError:
            continue
        if len(character) == 1 and not character.encode(codec, "ignore"):
            added.setdefault(character, data)
    return added


def _substituting(charset: str, errors: Errors) -> Callable[[bytes], str]:
    """The strict decoder; only if it fails are the bytes cut into characters."""
    strict = text_decoder(charset)
    substitute = _SUBSTITUTES[errors] if isinstance(errors, str) else errors
    cut = re.compile(b"|".join((*filter(None, [_SEQUENCES.get(charset)]), b".")), re.DOTALL)

    def character(found: re.Match[bytes]) -> str:
        try:
            return strict(found[0])
        except UnicodeDecodeError:
            return substitute(found[0])

    def decode(data: bytes) -> str:
        try:
            return strict(data)
        except UnicodeDecodeError:
            return "".join(map(character, cut.finditer(data)))

    return decode
