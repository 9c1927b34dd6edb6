"""Typed reading of JSON objects that a registry sent.

Each function takes the object, a key and ``where``, the JSON path of the object. It returns an empty value where the
key is missing or null (as Go's tools write an empty list), and raises `MalformedDocument`, which names the path, where
the value is of another type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from distsdk.errors import MalformedDocument
from distsdk.model.wording import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

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
