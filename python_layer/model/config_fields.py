"""Typed reading of a JSON object's fields that collects everything wrong with them for one message."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST_INT = 2**31 - 1
"""Sizes and token ids are int32 in the kernels."""


class Fields:
    """Reads the fields of a JSON object; a field that is null counts as absent.

    Each reader returns a stand-in of the right type for a wrong field, so that reading goes on to the next.

    Args:
        raw: The object.
        prefix: Put before the names in messages.
        problems: Where to add what is wrong; a new list if None.
    """

    def __init__(self, raw: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None) -> None:
        self.raw = raw
        self.problems: list[str] = [] if problems is None else problems
        self._prefix = prefix
        self._wrong: set[str] = set()

    def sub(self, name: str) -> "Fields":
        """The fields of the object in a field; none where it is absent or no object."""
        value = self.raw.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.problem(name, f"is {value!r}; it must be an object")
        inner = value if isinstance(value, Mapping) else {}
        return Fields(inner, f"{self._prefix}{name}.", self.problems)

    def problem(self, name: str, what: str) -> None:
        """Notes what is wrong with a field."""
        self.problems.append(f"{self._prefix}{name} {what}")
        self._wrong.add(name)

    def right(self, *names: str) -> bool:
        """Whether nothing was found wrong with these fields."""
        return self._wrong.isdisjoint(names)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(name) is not None

    def positive_int(self, name: str, default: int | None = None, most: int = LARGEST_INT) -> int:
        """A whole number from 1 to ``most``; required when there is no default."""
        value = self._get(name, default, required=default is None)
        if _is_int(value) and 1 <= value <= most:
            return int(value)
        if self.has(name):
            self.problem(name, f"is {_short(value)}; it must be a whole number from 1 to {most}")
        return 1 if default is None else default

    def positive_float(self, name: str, default: float | None = None, least: float | None = None) -> float:
        """A finite number above 0, or from ``least`` up; required when there is no default."""
        value = self._get(name, default, required=default is None)
        if _is_number(value) and (value > 0 if least is None else value >= least):
            return float(value)
        if self.has(name):
            wanted = "above 0" if least is None else f"of {least:g} or more"
            self.problem(name, f"is {_short(value)}; it must be a number {wanted}")
        return 1.0 if default is None else default

    def optional_float(self, name: str) -> float | None:
        """A finite number of 0 or more, or None when absent."""
        return self.positive_float(name, least=0) if self.has(name) else None

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if isinstance(value, bool):
            return value
        self.problem(name, f"is {_short(value)}; it must be true or false")
        return default

    def one_of(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of the allowed words."""
        value = self._get(name, default)
        if isinstance(value, str) and value in allowed:
            return value
        self.problem(name, f"is {_short(value)}; supported: {', '.join(allowed)}")
        return default

    def token_ids(self, name: str) -> tuple[int, ...]:
        """A token id or a list of them; empty when absent."""
        value = self.raw.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if all(_is_int(i) and 0 <= i <= LARGEST_INT for i in ids):
            return tuple(ids)
        self.problem(name, f"is {_short(value)}; it must be a token id or a list of token ids")
        return ()

    def _get(self, name: str, default: Any, required: bool = False) -> Any:
        if self.has(name):
            return self.raw[name]
        if required:
            self.problem(name, "is missing")
        return default


def _is_int(value: object) -> bool:
    # In Python a bool is an int; in a configuration it is a mistake.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
