"""
Placeholders in the configuration for what must not be written there, and ``redact``.

    ${NAME}             an environment variable
    ${NAME:-default}    the same, or ``default`` where it is unset or empty
    ${file:/path}       the content of a file, without the line break at its end
    file:/path          the same, as a whole value
    $$                  a dollar sign

Inside a URL the value is percent-encoded, except in the host, so a password may contain any
character. A placeholder may also stand for a whole URL. Values are never shown: the resulting text
has a ``repr`` without them, and errors name only variables and files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

__all__ = ["SecretError", "SecretText", "redact", "resolve"]

PLACEHOLDER = re.compile(r"\$\$|\$\{([^{}]*)\}|\$\{")
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.DOTALL)
#: Up to the last @, because a password that was not encoded may contain anything.
PASSWORD_IN_ACCOUNT = re.compile(r"(?<=://)([^/?#:@]*):.*(?=@)", re.DOTALL)
PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token)[^=&#]*=)[^&#]*")


class SecretError(Exception):
    """A placeholder cannot be resolved. The message names the placeholder, never a value."""


class SecretText(str):
    """A string that contains a secret, which its ``repr`` does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = redact(self)
        return repr(shown) if shown != self else "'***'"


def redact(url: str) -> str:
    """The URL without its passwords, for messages."""
    return PASSWORD_IN_QUERY.sub(r"\1***", PASSWORD_IN_ACCOUNT.sub(r"\1:***", url))


def resolve(text: str, folder: Path) -> str:
    """The text with its placeholders resolved. Relative paths start at ``folder``.

    Raises SecretError.
    """
    if text.startswith("file:"):
        return SecretText(_read(text.removeprefix("file:"), folder))
    parts: list[str] = []
    end = 0
    secret = False
    for match in PLACEHOLDER.finditer(text):
        parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == "$$":
            parts.append("$")
            continue
        if match[1] is None:
            raise SecretError("a '${' is never closed; write '$$' for a dollar sign")
        value = _value(match[1], folder)
        in_url = _takes_encoding(text[: match.start()], text[end:])
        parts.append(quote(value, safe="") if in_url else value)
        secret = True
    result = "".join([*parts, text[end:]])
    return SecretText(result) if secret or redact(result) != result else result


def _value(body: str, folder: Path) -> str:
    if body.startswith("file:"):
        return _read(body.removeprefix("file:"), folder)
    match = VARIABLE.fullmatch(body)
    if match is None:
        raise SecretError("a '${…}' holds neither a variable's name nor 'file:' and a path")
    name, default = match[1], match[3]
    value = os.environ.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise SecretError(f"the environment variable {name} is not set")
    return value


def _read(name: str, folder: Path) -> str:
    path = folder / name
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SecretError(f"the file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SecretError(f"the file {path} is not UTF-8") from error


def _takes_encoding(before: str, after: str) -> bool:
    """Whether a value between these texts is a part of a URL other than its host and port."""
    _, scheme, rest = PLACEHOLDER.sub("x", before).partition("://")
    if not scheme:
        return False
    authority_before, slash, _ = rest.partition("/")
    authority_after = PLACEHOLDER.sub("x", after).partition("/")[0]
    in_host = not slash and ("@" in authority_before or "@" not in authority_after)
    return not in_host
