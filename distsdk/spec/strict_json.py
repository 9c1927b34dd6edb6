"""Typed reading of JSON objects that a registry sent.

Each function takes the object, a key and ``where``, the JSON path of the object. It returns an empty value where the
key is missing or null (as Go's tools write an empty list), and raises `MalformedDocument`, which names the path, where
the value is of another type.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from typing import TYPE_CHECKING, NoReturn

from distsdk._text import quoted, shortened
from distsdk.errors import MalformedDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def as_object(value: object, where: str) -> dict[str, object]:
    """Return ``value``, which must be a JSON object."""
    if isinstance(value, dict):
        return value
    _refuse(value, where, "an object")


def optional_object(fields: Mapping[str, object], key: str, where: str) -> dict[str, object]:
    """Return the object at ``key``, or an empty one."""
    value = fields.get(key)
    return {} if value is None else as_object(value, at(where, key))


def optional_list(fields: Mapping[str, object], key: str, where: str) -> list[object]:
    """Return the list at ``key``, or an empty one."""
    value = fields.get(key)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    _refuse(value, at(where, key), "a list")


def optional_text(fields: Mapping[str, object], key: str, where: str) -> str:
    """Return the string at ``key``, or an empty one."""
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    _refuse(value, at(where, key), "a string")


def required_text(fields: Mapping[str, object], key: str, where: str) -> str:
    """Return the string at ``key``, which must be there and not empty."""
    text = optional_text(fields, key, where)
    if not text:
        raise MalformedDocument(f"{at(where, key)} is missing; the document cannot be used")
    return text


def optional_flag(fields: Mapping[str, object], key: str, where: str) -> bool:
    """Return the boolean at ``key``, or False."""
    value = fields.get(key)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    _refuse(value, at(where, key), "a boolean")


def optional_texts(fields: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    """Return the strings of the list at ``key``, or none."""
    if fields.get(key) is None:
        return ()
    texts: list[str] = []
    for number, value in enumerate(optional_list(fields, key, where)):
        if not isinstance(value, str):
            _refuse(value, f"{at(where, key)}[{number}]", "a string")
        texts.append(value)
    return tuple(texts)


def optional_text_map(fields: Mapping[str, object], key: str, where: str) -> dict[str, str]:
    """Return the object at ``key``, whose values must be strings, or an empty one."""
    if fields.get(key) is None:
        return {}
    texts: dict[str, str] = {}
    for name, value in optional_object(fields, key, where).items():
        if not isinstance(value, str):
            _refuse(value, at(at(where, key), name), "a string")
        texts[name] = value
    return texts


def at(where: str, key: str) -> str:
    """Return the JSON path of ``key`` in the object at ``where``; the document itself is at the empty path."""
    return f"{where}.{key}" if where else key


def _refuse(value: object, where: str, expected: str) -> NoReturn:
    got = "missing or null" if value is None else _JSON_NAMES.get(type(value), type(value).__name__)
    place = shortened(where) or "the document"
    raise MalformedDocument(f"{place} is {got} where {expected} belongs; the document cannot be used")


#: Objects and lists inside each other. Genuine documents have at most six.
MAX_DEPTH = 64


def load_json(raw: bytes, *, what: str = "the document") -> dict[str, object]:
    """Return the JSON object that ``raw`` is, read as strictly as by `parse_json`.

    Args:
        raw: The bytes; the caller limits their number.
        what: How messages name them.

    Raises:
        MalformedDocument: As for `parse_json`, or they are no object.
    """
    return as_object(parse_json(raw, what=what), what)


def parse_json(raw: bytes, *, what: str = "the document") -> object:
    """Return the JSON value that ``raw`` is, read strictly (RFC 8259).

    Args:
        raw: The bytes; the caller limits their number.
        what: How messages name them.

    Raises:
        MalformedDocument: They are not UTF-8 or not JSON; a key occurs twice in an object, a number is not finite, a
            string is not Unicode, or the nesting is deeper than `MAX_DEPTH`.
    """
    try:
        text = raw.decode()
        with no_collection():
            found: object = _DECODER.decode(text)
    except RecursionError as error:
        raise _too_deep(what) from error
    # UnicodeDecodeError, JSONDecodeError, and ints of more digits than Python converts, are all ValueErrors.
    except ValueError as error:
        raise MalformedDocument(f"{what} is not JSON that can be used: {error}") from error
    # There can be no more levels than opening brackets, and few documents have more of them than are allowed.
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(found, what)
    if _SURROGATE.search(text):
        _check_unicode(found, what)
    return found


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quoted(key)} occurs twice")
            seen.add(key)
    return fields


def _finite(number: str) -> float:
    value = float(number)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"the number {quoted(number)} is out of range")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector off while untrusted JSON is parsed.

    Nested lists bring the parser close to Python's recursion limit. A collection there runs the finalizers of unrelated
    objects, which then fail with `RecursionError` and leave sockets or files open.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _too_deep(what: str) -> MalformedDocument:
    return MalformedDocument(f"{what} is nested deeper than {MAX_DEPTH} levels; it cannot be used")


def _check_depth(document: object, what: str) -> None:
    level, depth = [document], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep(what)
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]


def _check_unicode(document: object, what: str) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise MalformedDocument(f"{what} has half a surrogate pair in a string; it cannot be used") from error
