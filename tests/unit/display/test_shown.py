"""Everything public shows itself: a table in a notebook, one line in a terminal, and fields to rich."""

from __future__ import annotations

import inspect
import io
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk._repr import Displayed, FixedRows, NamedRows, Rows, facts
from distsdk.analysis.usage import usage
from distsdk.layers.member import Kind, Member
from distsdk.layers.merged import Entry
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import HistoryEntry
from distsdk.spec.media_types import OCI_LAYER_GZIP
from distsdk.store.reports import Active, Collected, Info, Verified
from distsdk.testing import Registry

from .pages import Page, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST = Digest.of(b"")
MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)

#: Not values: the category of warnings, interfaces, what plug-ins use, events, and widgets, which show themselves.
NOT_SHOWN = {
    *("DistWarning", "ByteStream", "Catalog", "Deletable", "Fetcher", "Pushable", "ReferrerLister", "Resolver"),
    *("Source", "TagLister", "FetchRequest", "Settings", "Stat", "UploadReader", "Advanced", "Finished", "Planned"),
    *("DiffExplorer", "ImageExplorer", "TagExplorer", "Watch", "Kind", "LayerFiles", "Partition", "Referrers"),
    "SequenceDiff",
}
CLASSES = [name for name in distsdk.__all__ if inspect.isclass(getattr(distsdk, name)) and name not in NOT_SHOWN]


@pytest.mark.parametrize("name", CLASSES)
def test_everything_public_shows_itself(name: str) -> None:
    """Each public class has a page, fields for rich, and a repr that somebody wrote: attrs, or we."""
    kind = getattr(distsdk, name)
    assert callable(getattr(kind, "_repr_html_", None)), f"{name} is no `distsdk._repr.Displayed`"
    assert callable(getattr(kind, "__rich_repr__", None))
    assert kind.__repr__ is not object.__repr__


def tar(**files: bytes) -> bytes:
    """Return a layer."""
    import gzip
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"etc/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Registry, distsdk.Image]]:
    """A registry, and its image of two layers, of which nothing was read."""
    with Registry() as registry:
        registry.add_image("team/app", "1", layers=[tar(one=b"1" * 20_000), tar(two=b"2" * 300)])
        yield registry, distsdk.image(registry.locator("team/app") + ":1", cache=distsdk.Cache(tmp_path / "cache"))


def test_a_look_at_an_image_asks_for_nothing(image: tuple[Registry, distsdk.Image]) -> None:
    """Neither the image nor its layers cost a byte to look at, however one looks."""
    registry, lazy = image
    asked = registry.count()
    for value in (lazy, lazy.layers, lazy.layers[0], lazy.layers[0].blob, lazy.config, lazy.manifest):
        value._repr_html_()
        repr(value)
        if isinstance(value, Displayed):
            list(value.__rich_repr__())
    assert asked == registry.count()
    assert ["0", "1"] == [row[0] for row in Page(lazy.layers._repr_html_()).rows if row[0].isdigit()]


def test_lists_are_lists(image: tuple[Registry, distsdk.Image]) -> None:
    """What `ls` returns is a list as before, and a table."""
    _, lazy = image
    found = lazy.ls("/etc")
    assert isinstance(found, list)
    assert ["/etc/one", "/etc/two"] == [entry.path for entry in found]
    page = shown(found)  # type: ignore[arg-type] # a list to who reads the types
    assert ["mode", "owner", "size", "modified", "layer", "path"] in page.rows
    assert ["-rw-r--r--", "0:0", "19.5\xa0KiB", "1970-01-01 00:00", "0", "/etc/one"] in page.rows
    assert "2 files" in page.text
    assert found == pickle.loads(pickle.dumps(found))  # noqa: S301 - our own bytes
    assert "<Entry '/etc/one' file 19.5 KiB, layer 0>" == repr(found[0])


def test_where_the_bytes_are(image: tuple[Registry, distsdk.Image]) -> None:
    """Bars and numbers, of layers and of folders."""
    _, lazy = image
    used = usage(lazy)
    page = shown(used)
    assert "<Usage 2 layers, 19.8 KiB in files, 0 bytes hidden>" == repr(used)
    assert ["19.8\xa0KiB", "█" * 12, "/etc"] in page.rows
    assert "2 folders" in page.text


@pytest.mark.parametrize(
    ("value", "line", "rows"),
    [
        (
            Info(DIGEST, 20_000, MOMENT),
            None,
            [["digest", str(DIGEST)], ["size", "19.5 KiB (20,000 bytes)"], ["committed", "2026-11-24 12:00:00 UTC"]],
        ),
        (
            Active("layer <1>", None, 20_000, None, MOMENT, MOMENT, 1234),
            None,
            [["key", "layer <1>"], ["offset", "19.5 KiB (20,000 bytes)"], ["pid", "1,234"]],
        ),
        (
            Collected((Info(DIGEST, 5, MOMENT),), ()),
            "<Collected 1 blob and 0 ingests, 5 bytes>",
            [["size", "committed", "digest"], ["5\xa0bytes", "2026-11-24 12:00:00 UTC", str(DIGEST)]],
        ),
        (
            Verified(3, 20_000, (DIGEST, DIGEST), (DIGEST,)),
            "<Verified 3 blobs, 19.5 KiB: 2 damaged, 1 of them healed>",
            [["count", "3"], ["size", "19.5 KiB (20,000 bytes)"], [str(DIGEST)]],
        ),
        (distsdk.Timeouts(), None, [["connect", "10 s"]]),
        (distsdk.Limits(), None, [["token", "64.0 KiB (65,536 bytes)"], ["pages", "10,000"]]),
        (distsdk.Retry(), None, [["statuses", "429 502 503 504"]]),
        (
            Member(path=b"dev/\xff", kind=Kind.CHARACTER_DEVICE, device=(1, 3), mode=0o4644, uname=b"root"),
            None,
            [["mode", "crwSr--r-- (4644)"], ["device", "1:3"], ["owner", "0 (root)"]],
        ),
        (
            Entry("/bad\udcff", Member(path=b"bad\xff", kind=Kind.FILE), 2, hard_link=True),
            "<Entry '/bad\\udcff' file 0 bytes, layer 2>",
            [["kind", "file"], ["layer", "2"], ["hard link", "yes"]],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Displayed) else "",
)
def test_values(value: Any, line: str | None, rows: list[list[str]]) -> None:  # noqa: ANN401 - whatever is shown
    """A page with the fields, in units; and one line."""
    page = shown(value)
    for row in rows:
        assert row in page.rows
    assert "\n" not in repr(value)
    if line is not None:
        assert line == repr(value)


def test_collections_of_a_store(tmp_path: Path) -> None:
    """Images by name, ingests and results are tables; of a store, where it is, whether it is there or not."""
    store = distsdk.Store(tmp_path / "store")
    assert ["root", str(tmp_path / "store")] in shown(store).rows
    assert not (tmp_path / "store").exists()
    named = NamedRows({"docker.io/library/redis:7": Descriptor(OCI_LAYER_GZIP, DIGEST, 5)})
    assert ["docker.io/library/redis:7", "", OCI_LAYER_GZIP, str(DIGEST)] in shown(named).rows
    assert "no images" in shown(NamedRows()).text
    assert {} == store.images()
    begun = Rows([Active("a", None, 3, 6, MOMENT, MOMENT, 7)])
    assert ["a", "3\xa0bytes", "6\xa0bytes", "2026-11-24 12:00:00 UTC", "7"] in shown(begun).rows
    assert "nothing" in shown(Rows()).text


def test_many_rows() -> None:
    """Ten thousand rows are twenty, and a count of the rest."""
    page = shown(FixedRows(HistoryEntry(created_by=f"RUN {n}") for n in range(10_000)))
    assert "10,000 steps" in page.text
    assert "… and 9,980 more" in page.text
    assert 20 == sum(row[2].startswith("RUN ") for row in page.rows)


def test_errors_show_what_they_carry() -> None:
    """Their name, their message, and their data; no URL with a secret, as it is none in the error."""
    error = distsdk.RegistryError("it said no", status=500, codes=("A", "B"), retry_after=1.5)
    page = shown(error)
    assert "RegistryError it said no" in page.text
    assert [["status", "500"], ["codes", "A B"], ["retry after", "1.5 s"]] == page.rows
    assert ("message", "it said no") == next(iter(error.__rich_repr__()))
    assert {"status": 500, "codes": ("A", "B"), "retry_after": 1.5}.items() <= dict(error.__rich_repr__()).items()
    secret = distsdk.Unreachable("gone", url="https://me:planted@host.example/?sig=planted")
    assert "planted" not in secret._repr_html_()


def test_nobody_sees_a_login() -> None:
    """What a repr hides is hidden from a page and from rich."""
    values = [
        distsdk.Credentials(username="me", password="planted"),
        distsdk.Hosts(proxies={"https": "http://me:planted@proxy.example"}),
    ]
    for value in values:
        assert "planted" not in value._repr_html_()
        assert "planted" not in repr(list(value.__rich_repr__()))


def test_rich_sees_fields() -> None:
    """Names and values; of what was parsed, its text; of documents not the bytes."""
    descriptor = Descriptor(OCI_LAYER_GZIP, DIGEST, 5)
    assert {"media_type": OCI_LAYER_GZIP, "digest": DIGEST, "size": 5}.items() <= dict(facts(descriptor)).items()
    assert [str(DIGEST)] == list(DIGEST.__rich_repr__())
    config = distsdk.ImageConfig.parse(b'{"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}}')
    assert "raw" not in dict(facts(config))
