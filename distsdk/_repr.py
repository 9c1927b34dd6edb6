"""Notebook and rich representations of values and of lists of values. Neither sends a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")


class Displayed:
    """Base class of values with a representation for notebooks and for rich."""

    __slots__ = ()

    #: Attributes to show of a class without attrs fields; reading them must not send a request.
    _repr_fields: ClassVar[tuple[str, ...]] = ()

    def _repr_html_(self) -> str:
        from distsdk.display.html import show

        return show(self)

    def __rich_repr__(self) -> Iterator[Any]:
        """Yield names and values, for rich: https://rich.readthedocs.io/en/stable/pretty.html."""
        return facts(self)


class DisplayedAsText(Displayed):
    """Base class of values that are represented by the text they were parsed from."""

    __slots__ = ()

    def __rich_repr__(self) -> Iterator[Any]:
        """Yield one value without a name."""
        yield str(self)


class Rows(list[T]):
    """A list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        from distsdk.display.html import rows

        return rows(self)


class FixedRows(tuple[T, ...]):
    """A tuple that a notebook shows as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from distsdk.display.html import rows

        return rows(self)


class NamedRows(dict[str, T]):
    """Descriptors by name, shown as a table in a notebook."""

    def _repr_html_(self) -> str:
        from distsdk.display.html import named_rows

        return named_rows(self)


def facts(value: object) -> Iterator[tuple[str, object]]:
    """Yield the names and values of the fields that a value shows.

    Left out are fields that its repr hides, and the raw documents that other fields were parsed from.

    Args:
        value: An object with `Displayed._repr_fields` or attrs fields; another one has none.
    """
    fields: tuple[Any, ...] = getattr(type(value), "__attrs_attrs__", ())
    for name in getattr(value, "_repr_fields", ()):
        yield name, getattr(value, name)
    for field in fields:
        if field.repr is False or field.name in {"raw", "fields"} or field.name.startswith("_"):
            continue
        found = getattr(value, field.name)
        yield field.name, field.repr(found) if callable(field.repr) else found
