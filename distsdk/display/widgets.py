"""Explorers for notebooks: an image, the tags of a repository, a diff; and what is coming into a store.

Each has the same widgets from its beginning to its end, however many files there are: a widget costs a kernel and a
page a millisecond, a row of a list nothing. What they show is decided in `distsdk.display.explorer`. Where there is no
front end for widgets they are a page, or some lines of text.

What came from elsewhere is escaped here: `_safe` for HTML; rows and lines of widgets, which are no HTML, come without
what a page would act on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distsdk._text import counted, human_size, printable, shortened
from distsdk.display.explorer import PAGE, Change, ChangesView, FilesView, FilteredList, Preview, TagsView
from distsdk.errors import DistError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distsdk.analysis.diff import Diff
    from distsdk.analysis.usage import Usage
    from distsdk.images.image import Image
    from distsdk.layers.merged import Entry
    from distsdk.remotes.remote import Remote
    from distsdk.store.reports import Active
    from distsdk.store.store import Store

T = TypeVar("T")

#: Rows that a page shows where there are no widgets, and that a watch shows.
_ROWS = 20

#: Seconds between two looks at a store.
_PERIOD = 0.5

_STYLE = """<style>
.distsdk-explorer { color: var(--jp-content-font-color1, var(--vscode-editor-foreground, inherit)); }
.distsdk-explorer .distsdk-files select, .distsdk-explorer .distsdk-path input, .distsdk-explorer pre {
  font-family: var(--jp-code-font-family, var(--vscode-editor-font-family, monospace)); }
.distsdk-explorer .distsdk-files select { white-space: pre; overflow: auto; }
.distsdk-explorer pre { margin: 0; max-height: 26em; overflow: auto; padding: .4em; color: inherit; background: none;
  border: 1px solid var(--jp-border-color2, var(--vscode-panel-border, #888)); font-size: 12px; line-height: 1.35; }
.distsdk-explorer :is(pre, button, select, input):focus-visible {
  outline: 2px solid var(--jp-brand-color1, var(--vscode-focusBorder, #06c)); }
.distsdk-explorer img { max-width: 100%; max-height: 26em; background: #fff; }
.distsdk-explorer table { border-collapse: collapse; color: inherit; }
.distsdk-explorer :is(th, td) { text-align: left; vertical-align: top; padding: .1em .8em .1em 0; font-weight: normal;
  overflow-wrap: anywhere; line-height: 1.35; }
.distsdk-explorer th { white-space: nowrap;
  color: var(--jp-content-font-color2, var(--vscode-descriptionForeground, #777)); }
.distsdk-explorer .distsdk-count { white-space: nowrap; }
.distsdk-explorer td.distsdk-number { text-align: right; white-space: nowrap; }
.distsdk-explorer .distsdk-error { border-left: 3px solid var(--jp-error-color1, #c22); padding-left: .5em; }
</style>"""


def has_front_end() -> bool:
    """Return whether this runs in a kernel, whose front end may show widgets; a plain IPython or Python has none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Explorer:
    """What all explorers have: widgets in a box where there is a front end, a page and some lines elsewhere.

    Attributes:
        box: The widget that holds the others; made when it is first asked for.
    """

    _box: Any = None
    _drawing = False
    _message = ""

    @property
    def box(self) -> Any:  # noqa: ANN401 - ipywidgets has no types
        """The widget that holds all others."""
        if self._box is None:
            self._box = self._make()
            self.draw()
        return self._box

    def _make(self) -> Any:  # noqa: ANN401 - as above
        raise NotImplementedError

    def _draw(self) -> None:
        raise NotImplementedError

    def _page(self) -> str:
        raise NotImplementedError

    def _lines(self) -> Iterator[str]:
        raise NotImplementedError

    def draw(self) -> None:
        """Let the widgets show what is known."""
        if self._box is None or self._drawing:
            return
        self._drawing = True  # what is set here is no wish of the person's
        try:
            self._draw()
        finally:
            self._drawing = False

    def _act(self, do: Callable[[], object]) -> None:
        """Do what a person wants, and show what becomes of it."""
        if self._drawing:
            return
        self._message = ""
        try:
            with self._told():
                do()
        except KeyboardInterrupt:
            self._message = "stopped: the kernel was interrupted"
        self.draw()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong into a message: who would catch it is not above the callback of a widget."""
        try:
            yield
        except (DistError, OSError) as error:
            self._message = printable(str(error))

    def _on(self, widget: Any, do: Callable[[Any], object], name: str = "value") -> None:  # noqa: ANN401 - as above
        widget.observe(lambda change: self._act(lambda: do(change["new"])), names=name)

    def _note(self) -> str:
        return f'<div class="distsdk-error" role="alert">{_safe(self._message)}</div>' if self._message else ""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        del include, exclude
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if has_front_end():
            bundle |= self.box._repr_mimebundle_()
            bundle["text/plain"] = repr(self)
        else:
            bundle["text/plain"] = "\n".join(self._lines())
        return bundle

    def _repr_html_(self) -> str:
        return f'<div class="distsdk distsdk-explorer">{_STYLE}{self._note()}{self._page()}</div>'

    def __str__(self) -> str:
        return "\n".join(self._lines())


class _List(Generic[T]):
    """The widgets of a listing: filter, order, rows, page, and how many there are."""

    def __init__(
        self, owner: _Explorer, noun: str, line: Callable[[T], str], chosen: Callable[[T | None], object]
    ) -> None:
        """Make them.

        Args:
            owner: Acts on what is done with them.
            noun: What the rows are called.
            line: Returns an item as a row.
            chosen: Called with the item that is selected.
        """
        import ipywidgets as w

        self._line = line
        self._listing: FilteredList[T] | None = None
        self._shown: list[tuple[str, int]] = []
        self.filter = _classed(
            w.Text(
                description="Filter",
                placeholder="part of a name",
                continuous_update=True,
                layout=w.Layout(width="260px"),
            ),
            "distsdk-filter",
        )
        self.sort = _classed(w.Dropdown(description="Sort by", layout=w.Layout(width="260px")), "distsdk-sort")
        self.rows = _classed(
            w.Select(description=noun, rows=14, layout=_wide()),
            "distsdk-files",
        )
        self.page = _classed(
            w.BoundedIntText(description="Page", min=1, max=1, layout=w.Layout(width="150px")), "distsdk-page"
        )
        # Of the keys pressed in a list JupyterLab takes the arrows and letters for commands of its own: the next cell,
        # "delete this one". Of those pressed in a field it takes none.
        self.row = _classed(
            w.BoundedIntText(
                description="Row",
                min=0,
                max=0,
                continuous_update=True,
                tooltip="Selects a row: the arrow keys count",
                layout=w.Layout(width="170px"),
            ),
            "distsdk-row",
        )
        self.count = _classed(w.HTML(), "distsdk-count")

        def narrow(text: str) -> None:
            self._of().filter = text
            chosen(self._of().found[0] if text and self._of().found else None)

        def go(number: int) -> None:
            listing = self._of()
            if number:
                listing.turn((number - 1) // PAGE)
            chosen(listing.found[number - 1] if number else None)

        owner._on(self.filter, narrow)
        owner._on(self.sort, lambda order: setattr(self._of(), "order", order))
        owner._on(self.row, go)
        owner._on(self.page, lambda page: self._of().turn(page - 1))
        owner._on(self.rows, lambda index: chosen(None if index is None else self._of().rows[index]), "index")

    def _of(self) -> FilteredList[T]:
        assert self._listing is not None  # noqa: S101 - drawn before anybody acts
        return self._listing

    def draw(self, listing: FilteredList[T], selected: T | None) -> None:
        """Show a listing."""
        self._listing = listing
        _choices(self.sort, [(order, order) for order in listing.orders], listing.order)
        self.filter.value = listing.filter
        self.page.max = listing.pages
        self.page.value = listing.page + 1
        self.row.max = len(listing.found)
        self.row.value = listing.row(selected)
        rows = listing.rows
        lines = [(self._line(row), number) for number, row in enumerate(rows)]
        if lines != self._shown:  # or the front end would lose its place in them
            self._shown = lines
            self.rows.options = lines
        self.rows.index = next((number for number, row in enumerate(rows) if row is selected), None)
        pages = f", page {listing.page + 1} of {listing.pages}" if listing.pages > 1 else ""
        self.count.value = f"{listing.summary} listed{pages}"


class ImageExplorer(_Explorer):
    """An image to be looked into, in a notebook: `Image.explore`.

    Attributes:
        files: What it shows, without widgets.
    """

    def __init__(self, image: Image) -> None:
        """Learn what costs little."""
        self.files = FilesView(image)
        self._body = ""
        with self._told():
            self.files.begin()

    def show(self, files: FilesView) -> None:
        """Show another image, in the same widgets."""
        self.files = files
        self._act(self._begin)

    def _begin(self) -> None:
        self._body = ""
        self.files.begin()

    def _make(self) -> Any:  # noqa: ANN401 - ipywidgets has no types
        import ipywidgets as w

        self._platform = _classed(w.Dropdown(description="Platform"), "distsdk-platform")
        self._layer = _classed(w.Dropdown(description="Layer", layout=_wide()), "distsdk-layer")
        self._path = _classed(
            w.Text(description="Path", continuous_update=False, layout=_wide(), placeholder="/etc/os-release"),
            "distsdk-path",
        )
        self._path.tooltip = "A folder, or a file: Enter goes there"
        self._up = _classed(w.Button(description="Up", tooltip="The folder above"), "distsdk-up")
        self._open = _classed(w.Button(description="Open", tooltip="Open the selected folder or file"), "distsdk-open")
        self._bytes = _classed(
            w.Button(
                description="Where the bytes are",
                tooltip="By layer; folders have sizes afterwards",
                layout=w.Layout(width="auto"),
            ),
            "distsdk-usage",
        )
        self._read = _classed(w.Button(description="Read", layout=w.Layout(width="auto")), "distsdk-read")
        self._bar = _classed(w.FloatProgress(description="Reading", min=0, max=1, layout=_wide()), "distsdk-progress")
        self._status = _classed(w.HTML(), "distsdk-status")
        self._about = _classed(w.HTML(), "distsdk-about")
        self._preview = _classed(w.HTML(), "distsdk-preview")
        self._code = _classed(w.HTML(), "distsdk-code")
        self._list: _List[Entry] = _List(self, "Files", self._line, self._select)
        self._on(self._platform, self._choose_platform)
        self._on(self._layer, self._choose_layer)
        self._on(self._path, self._go)
        for button, do in (
            (self._up, self._go_up),
            (self._open, self._open_selected),
            (self._bytes, self._show_bytes),
            (self._read, self._read_layers),
        ):
            button.on_click(lambda _, do=do: self._act(do))
        files = self._list
        box = w.VBox(
            [
                w.HTML(_STYLE),
                _row([self._platform, self._layer]),
                _row([self._read, self._bar]),
                _row([self._path, self._up]),
                _row([files.filter, files.sort, files.page, files.row]),
                files.rows,
                _row([self._open, self._bytes, files.count]),
                self._status,
                self._about,
                self._preview,
                self._code,
            ]
        )
        return _classed(box, "distsdk-explorer")

    # What a person does

    def _line(self, entry: Entry) -> str:
        return self.files.line(entry)

    def _select(self, entry: Entry | None) -> None:
        self.files.select(entry)
        self._body = ""

    def _choose_platform(self, number: int) -> None:
        self._body = ""
        self.files.choose_platform(self.files.platforms[number])

    def _choose_layer(self, number: int) -> None:
        self._body = ""
        self.files.choose_layer(None if number < 0 else number)

    def _go(self, path: str) -> None:
        if path == printable(self.files.path):
            return
        self._body = ""
        self.files.go(path)
        if self.files.selected is not None:
            self._open_selected()

    def _go_up(self) -> None:
        self._body = ""
        self.files.up()

    def _open_selected(self) -> None:
        self.files.open()
        content = self.files.content
        self._body = "" if content is None else _content_html(content)

    def _show_bytes(self) -> None:
        self._body = _usage_html(self.files.learn_usage())

    def _read_layers(self) -> None:
        """Read in this thread, which is the kernel's: what it tells the bar is shown in this cell."""
        cost = self.files.cost
        self._bar.max = max(1, cost)
        self._bar.value = 0
        _show(self._bar, shown=True)
        self._read.disabled = True
        step = cost / 100

        def at(count: int) -> None:
            if count - self._bar.value >= step or count >= cost:
                self._bar.value = min(count, cost)
                self._bar.description = human_size(count)

        try:
            self.files.read(at)
        finally:
            self._read.disabled = False

    # What is seen

    def _draw(self) -> None:
        files, image = self.files, self.files.image
        platforms = files.platforms or (image.platform,)
        here = image.platform.choose(platforms)
        _choices(self._platform, [(printable(str(p)), i) for i, p in enumerate(platforms)], here)
        _choices(self._layer, list(_layers(image)), -1 if files.layer is None else files.layer)
        self._path.value = ""  # or a path that was typed and is not there would stay
        self._path.value = printable(files.path)
        unread, cost = files.unread, files.cost
        _show(self._read, shown=bool(unread))
        _show(self._bar, shown=False)
        self._read.description = f"Read {counted(len(unread), 'layer')} ({human_size(cost)})"
        self._list.draw(files.listing, files.selected)
        self._status.value = self._note() + self._state()
        self._about.value = "" if files.selected is None else _table(files.about(files.selected))
        self._preview.value = self._body
        self._code.value = _code(files.code)

    def _state(self) -> str:
        files = self.files
        unread = files.unread
        image = files.image
        said = [f"fetched so far: {human_size(image.fetched)}; the whole image has {human_size(image.download_size)}"]
        if unread:
            said.append(f"what is in {counted(len(unread), 'layer')} takes {human_size(files.cost)} to learn, once")
        if files.usage is not None:
            said.append(f"{human_size(files.usage.wasted)} that later layers hide")
        return f"<div>{_safe('; '.join(said))}</div>"

    def _page(self) -> str:
        image, listing = self.files.image, self.files.listing
        rows = [(self.files.line(entry),) for entry in listing.items[:_ROWS]]
        more = f"<p>… and {len(listing.items) - len(rows):,} more</p>" if len(listing.items) > len(rows) else ""
        lines = "\n".join(_safe(line) for (line,) in rows)
        return (
            f"<p><strong>Explorer</strong> {_safe(str(image.reference), 300)} {_safe(str(image.platform))}, in"
            f" {_safe(self.files.path, 300)}</p>{f'<pre>{lines}</pre>' if rows else ''}{more}{self._state()}"
            f"{_code(self.files.code)}"
        )

    def _lines(self) -> Iterator[str]:
        image, listing = self.files.image, self.files.listing
        yield f"{repr(image)[1:-1]}, in {printable(self.files.path)}"
        if self._message:
            yield self._message
        if self.files.unread:
            yield f"its files are not known yet: image.ls() reads {human_size(self.files.cost)} for that, once"
        yield from (self.files.line(entry).rstrip() for entry in listing.items[:_ROWS])
        if len(listing.items) > _ROWS:
            yield f"… and {len(listing.items) - _ROWS:,} more"
        yield "there is no front end for widgets here; the same in Python:"
        yield self.files.code

    def __repr__(self) -> str:
        image = self.files.image
        return printable(f"<ImageExplorer {image.reference} {image.platform} {self.files.path}>")


class TagExplorer(_Explorer):
    """The tags of a repository, each to be opened as an image: `RegistryFetcher.explore`.

    Attributes:
        tags: What it shows, without widgets.
    """

    def __init__(self, remote: Remote) -> None:
        """Ask for the tags."""
        self.tags = TagsView(remote)
        self._image: ImageExplorer | None = None
        with self._told():
            self.tags.begin()

    def _make(self) -> Any:  # noqa: ANN401 - ipywidgets has no types
        import ipywidgets as w

        self._list: _List[str] = _List(self, "Tags", printable, self._select)
        self._open = _classed(w.Button(description="Open image", tooltip="Look into the selected one"), "distsdk-open")
        self._open.on_click(lambda _: self._act(self._open_selected))
        self._status = _classed(w.HTML(), "distsdk-status")
        self._code = _classed(w.HTML(), "distsdk-code")
        self._room = _classed(w.VBox(), "distsdk-image")
        listed = self._list
        box = w.VBox(
            [
                w.HTML(_STYLE),
                _row([listed.filter, listed.sort, listed.page, listed.row]),
                listed.rows,
                _row([self._open, listed.count]),
                self._status,
                self._code,
                self._room,
            ]
        )
        return _classed(box, "distsdk-explorer")

    def _select(self, tag: str | None) -> None:
        self.tags.selected = tag

    def _open_selected(self) -> None:
        files = self.tags.open()
        if self._image is None:
            self._image = ImageExplorer(files.image)
            self._room.children = (self._image.box,)
        else:
            self._image.show(files)

    def _draw(self) -> None:
        self._list.draw(self.tags.listing, self.tags.selected)
        more = "<div>there are more tags than are listed</div>" if self.tags.more else ""
        self._status.value = self._note() + more
        self._code.value = _code(self.tags.code)

    def _page(self) -> str:
        listing = self.tags.listing
        shown = " ".join(f"<code>{_safe(tag)}</code>" for tag in listing.items[:_ROWS])
        return f"<p><strong>Tags</strong> {_safe(str(self.tags.remote.locator), 300)}: {shown} {self._rest()}</p>"

    def _lines(self) -> Iterator[str]:
        yield f"tags of {printable(str(self.tags.remote.locator))}:"
        if self._message:
            yield self._message
        yield from (shortened(tag, 128) for tag in self.tags.listing.items[:_ROWS])
        yield self._rest()

    def _rest(self) -> str:
        count = len(self.tags.listing.items)
        more = f"… and {count - _ROWS:,} more" if count > _ROWS else f"{count:,} in all"
        return f"{more}, and others that were not read" if self.tags.more else more

    def __repr__(self) -> str:
        return printable(f"<TagExplorer {self.tags.remote.locator} {self.tags.listing.summary} tags>")


class DiffExplorer(_Explorer):
    """What differs between two images, part by part: `Diff.explore`.

    Attributes:
        changes: What it shows, without widgets.
    """

    def __init__(self, diff: Diff) -> None:
        self.changes = ChangesView(diff)

    def _make(self) -> Any:  # noqa: ANN401 - ipywidgets has no types
        import ipywidgets as w

        changes = self.changes
        parts = [(f"{part}s ({changes.count(part):,})", part) for part in ChangesView.PARTS]
        self._part = _classed(w.Dropdown(description="Part", options=parts, value=changes.part), "distsdk-part")
        kinds = [("all changes", ""), *((kind, kind) for kind in ChangesView.KINDS)]
        self._what = _classed(w.Dropdown(description="Changes", options=kinds, value=changes.what), "distsdk-change")
        self._status = _classed(w.HTML(), "distsdk-status")
        self._about = _classed(w.HTML(), "distsdk-about")
        self._code = _classed(w.HTML(), "distsdk-code")
        self._list: _List[Change] = _List(self, "Changes", lambda change: change.line, self._select)
        self._on(self._part, lambda part: self.changes.choose(part, self.changes.what))
        self._on(self._what, lambda what: self.changes.choose(self.changes.part, what))
        listed = self._list
        box = w.VBox(
            [
                w.HTML(_STYLE),
                self._status,
                _row([self._part, self._what]),
                _row([listed.filter, listed.sort, listed.page, listed.row]),
                listed.rows,
                listed.count,
                self._about,
                self._code,
            ]
        )
        return _classed(box, "distsdk-explorer")

    def _select(self, change: Change | None) -> None:
        self.changes.selected = change

    def _draw(self) -> None:
        changes = self.changes
        diff = changes.diff
        sides = [("before", str(diff.before)), ("after", str(diff.after)), ("what differs", diff.summary)]
        self._status.value = self._note() + _table(sides)
        self._list.draw(changes.listing, changes.selected)
        self._about.value = "" if changes.selected is None else _table(_of_change(changes.selected))
        self._code.value = _code(changes.code)

    def _page(self) -> str:
        return self.changes.diff._repr_html_()

    def _lines(self) -> Iterator[str]:
        diff = self.changes.diff
        yield f"{printable(str(diff.before))} and {printable(str(diff.after))}: {diff.summary}"
        yield from (change.line.rstrip() for change in self.changes.listing.items[:_ROWS])

    def __repr__(self) -> str:
        return f"<DiffExplorer {repr(self.changes.diff)[6:-1]}>"


class Watch(_Explorer):
    """What is coming into a store, looked at twice a second in a notebook until it is stopped: `Store.watch`.

    It looks when the kernel has nothing else to do: a pull in a cell of the same notebook has a bar of its own.

    Attributes:
        store: Which.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.draw()

    @property
    def watching(self) -> bool:
        """Whether it goes on."""
        return self._task is not None and not self._task.done()

    def _make(self) -> Any:  # noqa: ANN401 - ipywidgets has no types
        import ipywidgets as w

        self._table = _classed(w.HTML(), "distsdk-ingests")
        self._stop = _classed(w.Button(description="Stop", tooltip="Look no more"), "distsdk-stop")
        self._stop.on_click(lambda _: self.stop())
        with contextlib.suppress(RuntimeError):  # no event loop here: it is shown as it is now
            self._task = asyncio.get_running_loop().create_task(self._look())
        return _classed(w.VBox([w.HTML(_STYLE), self._table, self._stop]), "distsdk-explorer")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            self.draw()

    def _active(self) -> Sequence[Active]:
        self._message = ""
        found: list[Active] = []
        with self._told():
            found = self.store.active()
        return found

    def _draw(self) -> None:
        self._stop.disabled = not self.watching
        table = self._page()
        self._table.value = self._note() + table

    def _page(self) -> str:
        active = self._active()
        rows = "".join(
            f"<tr><td>{_safe(key)}</td><td class='distsdk-number'>{here}</td><td class='distsdk-number'>{share}</td>"
            f"<td>{updated}</td></tr>"
            for key, here, share, updated in map(_of_active, active[:_ROWS])
        )
        more = f"<p>… and {len(active) - _ROWS:,} more</p>" if len(active) > _ROWS else ""
        head = "<tr><th>ingest</th><th>here</th><th>of all</th><th>last bytes</th></tr>"
        table = f"<table>{head}{rows}</table>" if active else ""
        return f"<p>{counted(len(active), 'ingest')} under way in {_safe(str(self.store.root), 300)}</p>{table}{more}"

    def _lines(self) -> Iterator[str]:
        active = self._active()
        yield f"{counted(len(active), 'ingest')} under way in {printable(str(self.store.root))}"
        yield from ("  ".join(_of_active(ingest)) for ingest in active[:_ROWS])

    def __repr__(self) -> str:
        return f"<Watch {printable(str(self.store.root))}>"


def _of_active(ingest: Active) -> tuple[str, str, str, str]:
    """Return the columns of an ingest."""
    total = ingest.total
    share = "" if not total else f"{ingest.offset / total:.0%} of {human_size(total)}"
    return shortened(ingest.key, 100), human_size(ingest.offset), share, f"{ingest.updated:%H:%M:%S} UTC"


def _of_change(change: Change) -> list[tuple[str, str]]:
    found = [
        ("what", f"{change.part} {change.what}"),
        ("name", change.name),
        ("before", change.before),
        ("after", change.after),
        ("differs in", change.how),
    ]
    return [(name, text) for name, text in found if text]


def _layers(image: Image) -> Iterator[tuple[str, int]]:
    """Yield the choices of a layer; -1 stands for all of them."""
    yield "all layers, merged", -1
    for layer in image.layers:
        step = "" if layer.history is None else layer.history.created_by or layer.history.comment
        yield f"{layer.number}: {human_size(layer.size)}  {shortened(' '.join(step.split()), 70)}", layer.number


def _classed(widget: Any, name: str) -> Any:  # noqa: ANN401 - ipywidgets has no types
    widget.add_class(name)
    return widget


def _row(widgets: list[Any]) -> Any:  # noqa: ANN401 - as above
    """Return widgets beside each other; in lines where the room is narrow."""
    import ipywidgets as w

    return w.HBox(widgets, layout=w.Layout(flex_flow="row wrap"))


def _wide() -> Any:  # noqa: ANN401 - as above
    """Return a layout for what takes the room there is."""
    import ipywidgets as w

    return w.Layout(width="auto", flex="1 1 auto", min_width="0")


def _show(widget: Any, *, shown: bool) -> None:  # noqa: ANN401 - as above
    widget.layout.display = None if shown else "none"


def _choices(dropdown: Any, options: list[tuple[str, Any]], value: object) -> None:  # noqa: ANN401 - as above
    if list(dropdown.options) != options:
        dropdown.options = options
    dropdown.value = value


def _safe(text: str, limit: int = 2000) -> str:
    """Return text from elsewhere as HTML, with what cannot be shown made visible."""
    return escape(shortened(text, limit), quote=True)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = (f'<tr><th scope="row">{_safe(name)}</th><td>{_safe(text)}</td></tr>' for name, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _code(code: str) -> str:
    lines = "\n".join(_safe(line, 10_000) for line in code.split("\n"))
    return f'<pre tabindex="0" role="region" aria-label="The same in Python"><code>{lines}</code></pre>'


def _content_html(content: Preview) -> str:
    """Return what a file holds."""
    shown = len(content.data)
    about = f"{human_size(content.size)}, {content.trust}"
    if content.cut:
        about += f"; the first {human_size(shown)}"
    match content.kind:
        case "picture":
            data = base64.b64encode(content.data).decode("ascii")
            body = f'<img alt="the picture in the file" src="data:{content.media_type};base64,{data}">'
        case "text":
            body = _pre("\n".join(map(_line, content.text.split("\n"))))
        case "bytes":
            body = _pre("\n".join(_hex(content.data)))
    return f"<div>{_safe(about)}</div>{body}"


def _pre(escaped: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="Preview of the file">{escaped}</pre>'


def _line(line: str) -> str:
    """Return a line of a text, escaped but for tabs."""
    line = line.removesuffix("\r")
    if line.isprintable():
        return escape(line, quote=True)
    return "\t".join(escape(printable(part), quote=True) for part in line.split("\t"))


def _hex(data: bytes) -> Iterator[str]:
    """Yield lines of 16 bytes: offset, hexadecimal, and what of it is ASCII; escaped."""
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:08x}  {part[:8].hex(' '):<23}  {part[8:].hex(' '):<23}  {escape(text, quote=True)}"


def _usage_html(usage: Usage) -> str:
    """Return where the bytes of an image are, by layer."""
    head = "<tr><th>layer</th><th>over the wire</th><th>files</th><th>content</th><th>hidden by later layers</th></tr>"
    rows = "".join(
        f"<tr><td>{layer.layer.number}</td>"
        + "".join(
            f"<td class='distsdk-number'>{text}</td>"
            for text in (
                human_size(layer.packed),
                f"{layer.files:,}",
                human_size(layer.content),
                human_size(layer.wasted),
            )
        )
        + "</tr>"
        for layer in usage.layers
    )
    return (
        f"<div>{human_size(usage.content)} are seen, {human_size(usage.wasted)} are hidden by later layers</div>"
        f"<table>{head}{rows}</table>"
    )
