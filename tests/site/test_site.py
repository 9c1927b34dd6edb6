"""The documentation as it was built by `make docs`: whole, linked, and readable without a network.

A folder of its own, as it needs what that target has made; it runs at the end of it.
"""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build"
SOURCES = [
    path.relative_to(ROOT / "docs")
    for kind in ("*.md", "*.ipynb")
    for path in sorted((ROOT / "docs").rglob(kind))
    if "_build" not in path.parts and "jupyter_execute" not in path.parts
]


class Page(HTMLParser):
    """What a page leads to, what it loads, and what can be led to in it."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort what an element names."""
        found = {name: value or "" for name, value in attrs}
        self.ids.update(found[name] for name in ("id", "name") if name in found)
        target = found.get("href") if tag in {"a", "link", "area"} else found.get("src", found.get("data"))
        if target is None:
            return
        (self.links if tag in {"a", "area"} else self.loads).append(target)

    def handle_data(self, data: str) -> None:
        """Keep what is read."""
        self.text += data


@cache
def page(path: Path) -> Page:
    """Return a page of the site."""
    return Page(path.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """Return the pages of the site."""
    return sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)


def is_elsewhere(url: str) -> bool:
    """Whether a URL leads out of the site."""
    parts = urlsplit(url)
    return bool(parts.scheme or parts.netloc) and parts.scheme != "data"


def test_it_was_built() -> None:
    """Each document is a page, and none is older than its source."""
    assert SITE.exists(), "make docs builds it"
    for source in SOURCES:
        built = SITE / source.with_suffix(".html")
        assert built.exists(), source
        assert built.stat().st_mtime >= (ROOT / "docs" / source).stat().st_mtime, f"{source} is newer: make docs"


def test_links_lead_somewhere() -> None:
    """Whatever links to the site itself, from any page, leads to a file that is there, and to a place in it."""
    broken = []
    for path in pages():
        for link in page(path).links + page(path).loads:
            if is_elsewhere(link) or link.startswith("data:"):
                continue
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(SITE)}: {link}")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in page(target).ids:
                broken.append(f"{path.relative_to(SITE)}: {link}: no such place there")
    assert [] == broken


def test_nothing_is_loaded_from_elsewhere() -> None:
    """No page, style or script needs a network: none loads anything by a URL with a host."""
    found = [f"{path.relative_to(SITE)}: {url}" for path in pages() for url in page(path).loads if is_elsewhere(url)]
    for path in sorted(SITE.rglob("*.css")):
        urls = re.findall(r"url\(\s*[\"']?([^)\"']+)|@import\s+[\"']([^\"']+)", path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {url}" for pair in urls for url in pair if url and is_elsewhere(url)]
    networks = re.compile(r"https?://[^\s\"'`]*(?:cdn|jsdelivr|unpkg|googleapis)", re.IGNORECASE)
    for path in sorted((*SITE.rglob("*.js"), *pages())):
        found += [f"{path.name}: {url}" for url in networks.findall(path.read_text(encoding="utf-8"))]
    assert [] == found


@pytest.mark.parametrize("name", ["tutorial/02-redis-walkthrough", "tutorial/03-inside-an-image", "reference/gallery"])
def test_what_is_executed_is_there(name: str) -> None:
    """Pages of notebooks, and the gallery, show what was shown."""
    source = (SITE / f"{name}.html").read_text(encoding="utf-8")
    assert source.count('<div class="distsdk') > 5
    assert "sha256:" in page(SITE / f"{name}.html").text


def test_the_explorer_is_seen_without_a_script() -> None:
    """Where widgets are, there is HTML of the same, and no script that would have to be fetched to see it."""
    for name in ("tutorial/03-inside-an-image", "reference/gallery"):
        source = (SITE / f"{name}.html").read_text(encoding="utf-8")
        assert "distsdk-explorer" in source
        assert "widget-view+json" not in source
