"""`TagList`: the tags of a repository, or the repositories of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pandas import DataFrame

    from distsdk.content.protocols import Fetcher

#: Entries of a list that its repr shows.
_SHOWN_ENTRIES = 20


class TagList:
    """The tags of a repository, or the repositories of a host: requested again each time one iterates.

    The list keeps the first entries that were read, to show them.

    Args:
        name: The repository, or the host.
        entries: Requests the entries each time it is iterated.
        remote: The repository whose tags these are; None for repositories.
    """

    def __init__(self, name: str, entries: Iterable[str], *, remote: Fetcher | None = None) -> None:
        self._name = name
        self._entries = entries
        self._remote = remote
        self._shown: tuple[str, ...] = ()
        self._count: int | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the entries in the remote's order.

        Raises:
            MalformedDocument: A page is not what the distribution specification says.
            Unsafe: A page names a next page on another host or of another listing.
            LimitExceeded: There are more pages than `Limits.pages`, or a page has more bytes than `Limits.document`.
            DistError: As `Remote.fetch`.
        """
        count = 0
        shown: list[str] = []
        for entry in self._entries:
            count += 1
            if len(shown) < _SHOWN_ENTRIES:
                shown.append(entry)
                self._shown = tuple(shown)
            yield entry
        self._shown, self._count = tuple(shown), count

    def to_pandas(self, *, details: bool = False, per_host: int = 8) -> DataFrame:
        """Return a table with a row for each entry, in the remote's order: column ``tag``, or ``repository``.

        Args:
            details: Also inspect each tag, with two or three small requests, as `distsdk.survey` does. The columns are
                then ``digest`` (of the index, where there is one), ``size`` (bytes to download) and ``created`` of the
                image for linux on this machine's architecture, ``platforms`` (a tuple), and ``error`` and
                ``error_kind`` of tags that could not be inspected, such as those of artifacts.
            per_host: Tags that are inspected at once.

        Raises:
            MissingExtra: pandas is not installed.
            ValueError: ``details`` of repositories.
            DistError: As iterating.
        """
        from distsdk.analysis.tables import tag_table

        return tag_table(self, self._remote, details=details, per_host=per_host)

    def __rich_repr__(self) -> Iterator[object]:
        """Yield the name, and the entries that were read first."""
        yield self._name
        yield from self._shown

    def __repr__(self) -> str:
        if not self._shown and self._count is None:
            return f"<TagList {self._name}: not read yet>"
        more = "" if self._count == len(self._shown) else ", …"
        return printable(f"<TagList {self._name}: {', '.join(self._shown)}{more}>")

    def _repr_html_(self) -> str:
        from distsdk.display.html import tag_list

        return tag_list(self._name, self._shown, self._count)
