"""Tables of what an image or a repository has, for pandas: columns that sort and sum."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from distsdk.errors import DistError, InvalidReference, MissingExtra
from distsdk.spec.descriptor import MAX_SIZE
from distsdk.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pandas import DataFrame

    from distsdk.content.protocols import Fetcher
    from distsdk.images.image import Image

#: How a column is kept: integers, times in UTC, text, text of few kinds, flags, whatever there is. Any may be missing.
Dtype = Literal["Int64", "datetime64[us, UTC]", "string", "category", "boolean", "object"]

NUMBER: Dtype = "Int64"
TIME: Dtype = "datetime64[us, UTC]"
TEXT: Dtype = "string"
CATEGORY: Dtype = "category"
FLAG: Dtype = "boolean"
OBJECT: Dtype = "object"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FILES: Mapping[str, Dtype] = {
    "path": TEXT,
    "kind": CATEGORY,
    "size": NUMBER,
    "mode": NUMBER,
    "uid": NUMBER,
    "gid": NUMBER,
    "modified": TIME,
    "link": TEXT,
    "hard_link": FLAG,
    "layer": NUMBER,
}
_LAYERS: Mapping[str, Dtype] = {
    "layer": NUMBER,
    "size": NUMBER,
    "media_type": CATEGORY,
    "digest": TEXT,
    "diff_id": TEXT,
    "created": TIME,
    "created_by": TEXT,
}
_HISTORY: Mapping[str, Dtype] = {
    "created": TIME,
    "created_by": TEXT,
    "comment": TEXT,
    "author": TEXT,
    "layer": NUMBER,
    "size": NUMBER,
}
_PACKAGES: Mapping[str, Dtype] = {"name": TEXT, "version": TEXT, "architecture": CATEGORY, "manager": CATEGORY}

#: Columns of a tag's details, as `survey` reads them.
_DETAILS = ("digest", "size", "created", "platforms")


def import_pandas(what: str) -> Any:  # noqa: ANN401 - a module without types
    """Return pandas.

    Args:
        what: What needs it, for the message.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("pandas", what) from error
    return pandas


def frame(rows: Iterable[Sequence[object]], columns: Mapping[str, Dtype | None]) -> DataFrame:
    """Return a table.

    Args:
        rows: The values of each row, in the order of the columns; None for what is not known.
        columns: Their names, and how they are kept; None where pandas is to say.

    Raises:
        MissingExtra: pandas is not installed.
    """
    pandas = import_pandas("a table")
    values: list[list[object]] = [[] for _ in columns]
    for row in rows:
        for column, value in zip(values, row, strict=True):
            column.append(value)
    series = {
        name: pandas.Series(list(map(_FITTING.get(dtype or OBJECT, _as_is), column)), dtype=dtype)
        for (name, dtype), column in zip(columns.items(), values, strict=True)
    }
    return pandas.DataFrame(series, columns=list(columns))


def _as_is(value: object) -> object:
    return value


def _number(value: object) -> object:
    """Return an integer, None where 64 bits do not hold it: sums of what strangers declare need not fit."""
    return value if isinstance(value, int) and abs(value) <= MAX_SIZE else None


def _time(value: object) -> object:
    """Return a time in UTC; None for the year 1, by which Go writes that there is none."""
    try:
        return value.astimezone(UTC) if isinstance(value, datetime) and value.year > 1 else None
    except OverflowError:
        return None


def _text(value: object) -> object:
    """Return text that can be encoded: half surrogate pairs, as of names that are no UTF-8, are escaped."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


_FITTING = {NUMBER: _number, TIME: _time, TEXT: _text, CATEGORY: _text}


def table(image: Image, of: str) -> DataFrame:
    """Return a table of an image; see `Image.to_pandas`."""
    import_pandas("Image.to_pandas")  # before anything is read
    if of not in _TABLES:
        message = f"there is no table of {of!r}: ask for {', '.join(_TABLES)}"
        raise ValueError(message)
    rows, columns = _TABLES[of]
    return frame(rows(image), columns)


def _files(image: Image) -> Iterator[tuple[object, ...]]:
    for entry in image.walk():
        member = entry.member
        yield (
            entry.path,
            member.kind.name.lower().replace("_", " "),
            member.size,
            member.mode,
            member.uid,
            member.gid,
            _EPOCH + timedelta(microseconds=member.mtime // 1000),  # 64 bits of nanoseconds: 1677 to 2262
            member.link.decode("utf-8", "backslashreplace") or None,
            entry.hard_link,
            entry.layer,
        )


def _layers(image: Image) -> Iterator[tuple[object, ...]]:
    for layer in image.layers:
        made = layer.history
        yield (
            layer.number,
            layer.size,
            layer.descriptor.media_type,
            str(layer.descriptor.digest),
            str(layer.diff_id),
            None if made is None else made.created_at,
            None if made is None else made.created_by,
        )


def _history(image: Image) -> Iterator[tuple[object, ...]]:
    steps = image.config.history
    # As of `Layer.history`: where the counts differ, nobody knows which step made which layer.
    told = sum(not step.empty_layer for step in steps) == len(image.layers)
    layers = iter(image.layers)
    for step in steps:
        layer = next(layers) if told and not step.empty_layer else None
        number, size = (None, 0 if step.empty_layer else None) if layer is None else (layer.number, layer.size)
        yield step.created_at, step.created_by, step.comment or None, step.author or None, number, size


def _packages(image: Image) -> Iterator[tuple[object, ...]]:
    for package in image.packages():
        yield package.name, package.version, package.architecture, package.manager


_TABLES: Mapping[str, tuple[Callable[[Image], Iterator[tuple[object, ...]]], Mapping[str, Dtype]]] = {
    "files": (_files, _FILES),
    "layers": (_layers, _LAYERS),
    "history": (_history, _HISTORY),
    "packages": (_packages, _PACKAGES),
}


def tag_table(tags: Iterable[str], remote: Fetcher | None, *, details: bool, per_host: int) -> DataFrame:
    """Return a table of tags; see `TagList.to_pandas`.

    Args:
        tags: Their names.
        remote: The repository they are of; None for names of repositories.
        details: Whether to look at what they stand for.
        per_host: Tags that are looked at at once.
    """
    import_pandas("TagList.to_pandas")
    if not details:
        return frame(((tag,) for tag in tags), {"tag" if remote is not None else "repository": TEXT})
    if remote is None:
        message = "there are no details of repositories, only of their tags: connect to one and list those"
        raise ValueError(message)
    from distsdk.analysis.survey import Asked, gather

    there = remote  # for the functions below it cannot be None any more

    def named() -> Iterator[tuple[str, Reference | DistError]]:
        for tag in tags:
            try:
                yield tag, Reference(there.locator, tag)
            except InvalidReference as error:  # of a registry that says what it likes
                yield tag, error

    return gather(named(), "tag", asked=Asked.of(_DETAILS, connect=lambda _: there), per_host=per_host)
