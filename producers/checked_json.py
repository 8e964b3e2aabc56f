"""JSON objects read key by key: every complaint names the key by its path, and no key goes unread by mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from schemas.errors import BadInput

__all__ = ["Section"]

_T = TypeVar("_T")

_TYPE_NAMES: Final[dict[type, str]] = {
    str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip


class Section:
    """An object of the file that knows its path and complains about keys that nobody asked for."""

    def __init__(self, content: object, path: str) -> None:
        if not isinstance(content, dict):
            raise BadInput(f"mapping key {path!r} must be an object, not {content!r}")
        self.content: dict[str, Any] = content
        self.path = path
        self._known: set[str] = set()

    def at(self, key: str) -> str:
        """The key with its path, as errors name it."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether the key is there; asking makes it a known one."""
        self._known.add(key)
        return key in self.content

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """The key's value; required where there is no default. A whole number passes as a float."""
        if not self.has(key):
            if default is None:
                raise BadInput(f"mapping key {self.at(key)!r} is missing")
            return default
        value = self.content[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise BadInput(f"mapping key {self.at(key)!r} must be {_TYPE_NAMES[kind]}, not {value!r}")
        return value

    def raw(self, key: str) -> object:
        """The key's value whatever it is, None where absent."""
        self._known.add(key)
        return self.content.get(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the key is absent."""
        values = self.get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise BadInput(f"mapping key {self.at(key)!r} must be a list of strings, not {values!r}")
        return tuple(values)

    def optional(self, key: str, parse: Callable[[object, str], _T]) -> _T | None:
        """What `parse` makes of the value and its path, None where absent."""
        return parse(self.content[key], self.at(key)) if self.has(key) else None

    def section(self, key: str) -> Section:
        """The object under a required key."""
        self._known.add(key)
        if key not in self.content:
            raise BadInput(f"mapping key {self.at(key)!r} is missing")
        return Section(self.content[key], self.at(key))

    def end(self) -> None:
        """Raises BadInput where a key is left that nobody asked for."""
        for key in self.content:
            if key not in self._known:
                raise BadInput(
                    f"mapping key {self.at(key)!r} is not known; known here: {', '.join(sorted(self._known))}"
                )
