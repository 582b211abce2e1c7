"""
The variables and constants of a generated row function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.mapping.values import NULL, Shape, Value

__all__ = ["Generator"]


class Generator:
    """Makes names that are unique in one generated function.

    ``names`` are the constants and functions that its code needs.
    """

    def __init__(self) -> None:
        self.names: dict[str, object] = {}
        self._variables = 0

    def constant(self, value: object) -> str:
        """The name of a constant."""
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def strict(
        self, values: Sequence[Value], shape: Shape, body: Callable[..., str], *, null: bool = False
    ) -> Value:
        """The value of ``body``, or NULL if one of ``values`` is NULL.

        ``body`` gets the code of each value and must use each once at most, unless it is a name.
        ``null``: the body may be NULL, too.
        """
        if any(value.shape.kind == "null" for value in values):
            return NULL
        tests, codes = [], []
        for value in values:
            code = value.code
            if value.nullable and _is_name(code):
                tests.append(f"{code} is None")
            elif value.nullable:
                name = self.variable()
                tests.append(f"({name} := {code}) is None")
                code = name
            codes.append(code)
        result = body(*codes)
        if not tests:
            return Value(f"({result})", shape, null)
        return Value(f"(None if {' or '.join(tests)} else {result})", shape)

    def let(self, value: Value, build: Callable[[Value], Value]) -> Value:
        """The value of ``build``, which may use its argument several times."""
        if _is_name(value.code) or value.constant is not None:
            return build(value)
        name = self.variable()
        result = build(value._replace(code=name))
        return result._replace(code=f"(({name} := {value.code}), {result.code})[1]", constant=None)

    def variable(self) -> str:
        """A new name, to be assigned before it is read."""
        self._variables += 1
        return f"v{self._variables}"


def _is_name(code: str) -> bool:
    return code.isidentifier()
