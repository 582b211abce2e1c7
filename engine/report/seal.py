"""
The seal of a report: hashes and an optional signature, by which a change of the report is found.

The *document* of a report is an object of JSON::

    {"content": …, "page_sha256": …, "parts": …, "sha256": …, "signature": …}

- ``sha256`` is that of the canonical text of ``content``: JSON as Python's ``json.dumps(content,
  sort_keys=True, separators=(",", ":"))`` makes it, which is ASCII.
- ``page_sha256`` is that of the HTML page without the document in it: the bytes before it, followed
  by those behind it.
- ``parts`` are the hashes of the canonical texts of each table, and of the content without its
  tables. They only tell which part was changed.
- ``signature`` is None, or has an Ed25519 signature (RFC 8032) of the two hashes, as ``_message``
  writes them, and the public key. It proves who made the report only if the reader knows the public
  key from elsewhere. Hashes alone are no protection against somebody who computes them anew.

The page holds the document in an element that browsers do not run. ``<``, ``>`` and ``&`` are
written as escapes, so nothing in a value can end the element.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from engine.errors import ConfigError

if TYPE_CHECKING:  # a comparison without a report does not need it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = [
    "Checked",
    "check",
    "content_hash",
    "document",
    "public_hex",
    "read_private_key",
    "read_public_key",
]

#: What stands before and behind the document in a page.
BEFORE: Final = b'<script type="application/json" id="tailrace-report">'
BEHIND: Final = b"</script>"

_Content = dict[str, Any]
_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


class _Parts(msgspec.Struct, forbid_unknown_fields=True):
    summary: str
    tables: dict[str, str]


class _Signature(msgspec.Struct, forbid_unknown_fields=True):
    algorithm: Literal["Ed25519"]
    public_key: str
    value: str


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    content: _Content
    page_sha256: str
    parts: _Parts
    sha256: str
    signature: _Signature | None


class Checked(NamedTuple):
    """What a check has found: ``problems``, each a sentence; the hash of the content; the public
    key of the signature, as hexadecimal digits, empty if there is none."""

    problems: tuple[str, ...]
    sha256: str = ""
    key: str = ""


def content_hash(content: object) -> str:
    """The SHA-256 of the canonical text of a content, as hexadecimal digits."""
    return sha256(_canonical(content)).hexdigest()


def document(content: _Content, page: tuple[bytes, bytes], key: Ed25519PrivateKey | None) -> bytes:
    """The document of a report, with a page in two pieces, before the document and behind it. It is
    signed if there is a key."""
    digest, page_digest = content_hash(content), sha256(b"".join(page)).hexdigest()
    signature = None
    if key is not None:
        value = key.sign(_message(digest, page_digest)).hex()
        signature = _Signature("Ed25519", public_hex(key.public_key()), value)
    made = _Document(content, page_digest, _parts(content), digest, signature)
    text = _canonical(msgspec.to_builtins(made)).decode()
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode()


def check(data: bytes, key: Ed25519PublicKey | None = None) -> Checked:
    """Check a report, which is a page or a document. With a key, its signature must be of it."""
    page: bytes | None = None
    text = data
    if not data.lstrip().startswith(b"{"):
        before, mark, rest = data.partition(BEFORE)
        text, end, behind = rest.partition(BEHIND)
        if not mark or not end or b"<" in text:
            return Checked(("the file has no report of Tailrace, or it was cut",))
        page = before + mark + end + behind
    try:
        made = msgspec.convert(json.loads(text, object_pairs_hook=_object), _Document)
        return _check(made, page, key)
    except msgspec.ValidationError:
        return Checked(("the file is no report of Tailrace, or its form was changed",))
    except (ValueError, RecursionError):
        return Checked(("the report in the file is damaged, or was changed: it is no JSON",))


def _check(made: _Document, page: bytes | None, key: Ed25519PublicKey | None) -> Checked:
    digest, page_digest = content_hash(made.content), made.page_sha256
    problems = _changed(made, digest)
    if page is not None:
        page_digest = sha256(page).hexdigest()
        if page_digest != made.page_sha256:
            problems.append("the page around the report was changed")
    signed = "" if made.signature is None else _signed_by(made.signature, digest, page_digest)
    if made.signature is not None and not signed:
        problems.append("the signature is not one of this report")
    if key is not None and made.signature is None:
        problems.append("the report is not signed")
    elif key is not None and signed and signed != public_hex(key):
        problems.append(f"the report is signed with another key, {signed}")
    return Checked(tuple(problems), digest, signed)


def _changed(made: _Document, digest: str) -> list[str]:
    """What was changed of the content, as far as its hashes tell."""
    try:
        parts = _parts(made.content)
    except (KeyError, TypeError):
        return ["the content was changed: it has no tables"]
    problems = []
    if parts.summary != made.parts.summary:
        problems.append("the content besides its tables was changed")
    now, before = parts.tables, made.parts.tables
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            verb = "was changed" if name in now and name in before else "was added or removed"
            problems.append(f"the content about the table {name} {verb}")
    if digest == made.sha256 and problems:
        return ["the hashes of the parts were changed"]
    if digest != made.sha256 and not problems:
        return ["the content was changed, or its hash"]
    return problems


def _parts(content: _Content) -> _Parts:
    """The hashes of the parts of a content. Raises KeyError or TypeError."""
    rest = {name: value for name, value in content.items() if name != "tables"}
    tables: dict[str, str] = {}
    for number, table in enumerate(content["tables"], 1):
        name = str(table["table"])
        tables[f"{name}, number {number}" if name in tables else name] = content_hash(table)
    return _Parts(content_hash(rest), tables)


def _message(content: str, page: str) -> bytes:
    """What is signed."""
    return f"tailrace report 1\ncontent {content}\npage {page}\n".encode()


def _signed_by(signature: _Signature, content: str, page: str) -> str:
    """The public key with which these hashes were signed; empty if this is not their signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public, value = bytes.fromhex(signature.public_key), bytes.fromhex(signature.value)
        Ed25519PublicKey.from_public_bytes(public).verify(value, _message(content, page))
    except (ValueError, InvalidSignature):
        return ""
    return public.hex()


def public_hex(key: Ed25519PublicKey) -> str:
    """A public key as hexadecimal digits."""
    return key.public_bytes_raw().hex()


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key in PEM. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_bytes(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM. Raises ConfigError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_bytes(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public")
    return key


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _no_key(path: Path, kind: str) -> ConfigError:
    make = "`openssl genpkey -algorithm ed25519 -out key.pem`"
    public = "`openssl pkey -in key.pem -pubout -out key.pub.pem`"
    return ConfigError(
        f"{path} is no {kind} Ed25519 key in PEM, or a password protects it",
        hint=f"{make} makes a key, and {public} its public key",
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON. Raises ValueError if a name occurs twice: readers differ about it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found
