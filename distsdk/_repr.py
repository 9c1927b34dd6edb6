"""How values show themselves: a table in a notebook, an indented call to rich, and lists of them as well.

A look costs nothing: neither asks for anything that is not known yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")


class Displayed:
    """Shows what it knows of itself."""

    __slots__ = ()

    #: Attributes that are worth a look and cost none, of a class whose fields attrs does not know.
    _repr_fields: ClassVar[tuple[str, ...]] = ()

    def _repr_html_(self) -> str:
        from distsdk.display.html import show

        return show(self)

    def __rich_repr__(self) -> Iterator[Any]:
        """Yield names and values, as rich asks for them: https://rich.readthedocs.io/en/stable/pretty.html."""
        return facts(self)


class DisplayedAsText(Displayed):
    """Shows itself as the text that it was parsed from."""

    __slots__ = ()

    def __rich_repr__(self) -> Iterator[Any]:
        """Yield one value without a name."""
        yield str(self)


class Rows(list[T]):
    """A list that is a table in a notebook."""

    def _repr_html_(self) -> str:
        from distsdk.display.html import rows

        return rows(self)


class FixedRows(tuple[T, ...]):
    """A tuple that is a table in a notebook."""

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
    """Yield the names and values that a value displays: the fields in its repr, or `Displayed._repr_fields`.

    What its repr hides is hidden here, and so are documents as they came, which the other fields are read from.
    """
    fields: tuple[Any, ...] = getattr(type(value), "__attrs_attrs__", ())
    for name in getattr(value, "_repr_fields", ()):
        yield name, getattr(value, name)
    for field in fields:
        if field.repr is False or field.name in {"raw", "fields"} or field.name.startswith("_"):
            continue
        found = getattr(value, field.name)
        yield field.name, field.repr(found) if callable(field.repr) else found
