"""What the tests of displays have in common: a page as a browser takes it, held against what is allowed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Protocol

#: What the display may be made of: the elements, and what each may carry.
ALLOWED = {
    "div": {"class"},
    "style": set[str](),
    "p": set[str](),
    "strong": set[str](),
    "em": set[str](),
    "code": {"class"},
    "span": {"class"},
    "details": {"open"},
    "summary": set[str](),
    "table": {"style"},
    "thead": set[str](),
    "tbody": set[str](),
    "tr": set[str](),
    "th": {"scope", "style"},
    "td": {"style", "title"},
}
INLINE_STYLES = {"margin-left:0", "text-align:left", "text-align:left;white-space:nowrap", "text-align:right"}


class Displayed(Protocol):
    """What a notebook asks a value for."""

    def _repr_html_(self) -> str: ...


class Page(HTMLParser):
    """A page as a browser takes it: its elements, balanced; the text that is seen; the cells of its tables."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self.style = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Hold an element against what is allowed."""
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= ALLOWED[tag]
        self.elements.append(tag)
        self._open.append(tag)
        for name, value in attrs:
            match name:
                case "style":
                    assert value in INLINE_STYLES
                case "class":
                    assert value in {"div": {"distsdk"}, "code": {"ds-digest"}, "span": {"ds-bar"}}[tag]
                case "scope":
                    assert value in {"row", "col"}
                case "title":
                    self.titles.append(value or "")
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Hold an end against its beginning."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is seen apart from the style."""
        if self._open[-1] == "style":
            self.style += data
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def _refuse(self, data: str) -> None:
        raise AssertionError(data)

    handle_comment = handle_pi = unknown_decl = _refuse

    def handle_decl(self, decl: str) -> None:
        """Refuse a declaration as any other thing that is no element."""
        self._refuse(decl)


def shown(value: Displayed) -> Page:
    """Return what a notebook shows of a value."""
    return Page(value._repr_html_())
