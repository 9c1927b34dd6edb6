"""A layout in a directory: a store and the remote for its path read, write and make it alike."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import distsdk
from distsdk import Descriptor, Digest, Store
from distsdk.content.blob import Blob
from distsdk.errors import InvalidConfig, LimitExceeded, MalformedDocument, UnsupportedDocument
from distsdk.layout import documents, reader
from distsdk.layout.directory import LayoutDirectory
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import REF_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EMPTY = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}).encode()
IMAGE = Descriptor(media.OCI_INDEX, Digest.of(EMPTY), len(EMPTY))


class Side(Protocol):
    """One of the two ways in which a layout is read and written."""

    def names(self) -> list[str]:
        """Return the tags."""
        ...

    def add(self, tag: str) -> None:
        """Write a document and name it."""
        ...


class OfStore:
    """A `Store`."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def names(self) -> list[str]:
        """Return the tags."""
        return list(self.store.images())

    def add(self, tag: str) -> None:
        """Write a document and name it."""
        self.store.ingest(Blob.from_bytes(EMPTY))
        self.store.tag(tag, IMAGE)


class OfRemote:
    """The remote for a path."""

    def __init__(self, folder: Path) -> None:
        remote = distsdk.connect(str(folder))
        self.remote = remote

    def names(self) -> list[str]:
        """Return the tags."""
        return list(self.remote.tags())

    def add(self, tag: str) -> None:
        """Write a document and name it."""
        self.remote.push_document(EMPTY, media.OCI_INDEX, tag=tag)


both = pytest.mark.parametrize("side", [OfStore, OfRemote])


def made(folder: Path, *entries: object, version: str = "1.0.0") -> Path:
    """Write a layout by hand."""
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": version}))
    write(folder, *entries)
    return folder


def write(folder: Path, *entries: object) -> None:
    """Write ``index.json``."""
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def named(name: str) -> dict[str, object]:
    """An entry."""
    return {**IMAGE.to_fields(), "annotations": {REF_NAME: name}}


# What both accept and refuse


@both
@pytest.mark.parametrize("version", ["1.0.0", "1.0.1", "1.1.0"])
def test_version_1_is_read_and_written(tmp_path: Path, side: Callable[[Path], Side], version: str) -> None:
    """Of whatever minor version: the store and the remote agree."""
    layout = side(made(tmp_path / "layout", named("old"), version=version))
    assert ["old"] == layout.names()
    layout.add("new")
    assert ["old", "new"] == layout.names()
    assert {"imageLayoutVersion": version} == json.loads((tmp_path / "layout/oci-layout").read_bytes())


@both
@pytest.mark.parametrize("version", ["2.0.0", "1.0", "01.0.0", ""])
def test_another_version_is_refused_for_writing(tmp_path: Path, side: Callable[[Path], Side], version: str) -> None:
    """The error names the file, and nothing is written."""
    folder = made(tmp_path / "layout", named("old"), version=version)
    with pytest.raises((UnsupportedDocument, MalformedDocument), match="oci-layout"):
        side(folder).add("new")
    assert {"manifests": [named("old")], "schemaVersion": 2} == json.loads((folder / "index.json").read_bytes())
    assert [] == list((folder / "blobs/sha256").iterdir())


@pytest.mark.slow
@both
def test_an_index_of_several_mebibytes_is_read_and_written(tmp_path: Path, side: Callable[[Path], Side]) -> None:
    """``index.json`` names every image of a layout: the limit of a manifest is not its limit."""
    folder = made(tmp_path / "layout", *(named(f"v{number}") for number in range(25_000)))
    assert (folder / "index.json").stat().st_size > 5_300_000
    layout = side(folder)
    assert 25_000 == len(layout.names())
    layout.add("new")
    assert ["v0", "new"] == layout.names()[::25_000]


@both
def test_an_index_has_a_limit(tmp_path: Path, side: Callable[[Path], Side], monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer one is neither read nor written."""
    folder = made(tmp_path / "layout", named("old"))
    length = (folder / "index.json").stat().st_size
    monkeypatch.setattr(documents, "MAX_INDEX", length)
    with pytest.raises(LimitExceeded, match=r"index\.json would be longer than the limit"):
        side(folder).add("new")
    monkeypatch.setattr(reader, "MAX_INDEX", length - 1)
    with pytest.raises(LimitExceeded, match=r"index\.json has more bytes than the limit"):
        side(folder).names()


@both
@pytest.mark.parametrize(
    "left",
    [
        ("quarantine/sha256-00",),
        ("ingest/door",),
        ("oci-layout.gone", "quarantine/x"),
        (".distsdk-0123456789abcdef", "index.lock", "blobs/sha256/x"),
    ],
)
def test_what_a_layout_leaves_is_not_foreign(
    tmp_path: Path, side: Callable[[Path], Side], left: tuple[str, ...]
) -> None:
    """A directory with nothing but that becomes a layout; one with any other name in it does not."""
    for name in left:
        (tmp_path / "layout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "layout" / name).touch()
    layout = side(tmp_path / "layout")
    if left[0] == "oci-layout.gone":
        with pytest.raises(InvalidConfig, match=r"it holds 'oci-layout\.gone'"):
            layout.add("new")
        return
    layout.add("new")
    assert ["new"] == layout.names()


@both
def test_entries_that_are_not_descriptors_matter_where_they_have_a_name(
    tmp_path: Path, side: Callable[[Path], Side]
) -> None:
    """Those of other tools without a name are left alone; one with a name is an error that shows it."""
    strange: list[object] = [7, {}, {"digest": "x"}, {"annotations": {"a": 1}}]
    folder = made(tmp_path / "layout", *strange, named("old"))
    layout = side(folder)
    assert ["old"] == layout.names()
    layout.add("new")
    assert [*strange, named("old"), named("new")] == json.loads((folder / "index.json").read_bytes())["manifests"]
    write(folder, {"annotations": {REF_NAME: "broken"}})
    with pytest.raises(MalformedDocument, match="'broken'"):
        layout.names()


@both
def test_a_lost_index_is_damage_and_not_an_empty_layout(tmp_path: Path, side: Callable[[Path], Side]) -> None:
    """An empty one in its place would make garbage of every image."""
    layout = side(made(tmp_path / "layout", named("old")))
    layout.add("new")
    (tmp_path / "layout/index.json").unlink()
    with pytest.raises(MalformedDocument, match=r"index\.json is missing"):
        layout.names()
    with pytest.raises(MalformedDocument, match=r"index\.json is missing"):
        layout.add("newer")
    with pytest.raises(MalformedDocument, match=r"index\.json is missing"):
        Store(tmp_path / "layout").gc()
    assert (tmp_path / "layout/blobs/sha256" / IMAGE.digest.hex).exists()


@both
@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_file_that_another_tool_is_writing_is_read_once_it_is_written(
    tmp_path: Path, side: Callable[[Path], Side], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Empty for a moment, as skopeo leaves both."""
    folder = made(tmp_path / "layout", named("old"))
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(b"")
    monkeypatch.setattr("time.sleep", lambda _: path.write_bytes(whole))
    layout = side(folder)
    assert ["old"] == layout.names()
    path.write_bytes(b"")
    layout.add("new")
    assert ["old", "new"] == layout.names()


def test_a_store_of_something_else_lists_nothing_of_it(tmp_path: Path) -> None:
    """A directory that holds other files is refused; one that is not there yet, or empty, has no images."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidConfig, match=r"it holds 'thesis\.tex'"):
        Store(tmp_path).images()
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        assert {} == Store(tmp_path / name).images()


def test_a_referrer_stays_listed_when_its_name_goes(tmp_path: Path) -> None:
    """Nothing else lists it; the store and the remote agree."""
    store, remote = Store(tmp_path), OfRemote(tmp_path).remote
    subject = remote.push_document(EMPTY, media.OCI_INDEX, tag="subject")
    fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [], "subject": subject.to_fields()}
    about = remote.push_document(json.dumps(fields).encode(), media.OCI_INDEX, tag="about")
    store.tag("about", subject)
    assert [about.digest] == [found.digest for found in remote.referrers(subject)]
    assert () == store.gc().blobs
    remote.push_document(json.dumps(fields).encode(), media.OCI_INDEX, tag="about")
    store.untag("about")
    assert [about.digest] == [found.digest for found in remote.referrers(subject)]
    assert ["subject"] == list(store.images())


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no unfinished file; one that a killed process left is replaced."""
    directory = LayoutDirectory(tmp_path / "layout")
    directory.set_name("old", [IMAGE])
    before = (tmp_path / "layout/index.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left.*index\.json"):
            directory.set_name("new", [IMAGE])
    assert before == (tmp_path / "layout/index.json").read_bytes()
    assert [] == list((tmp_path / "layout").glob(".distsdk-*"))
    (tmp_path / "layout/.distsdk-index").symlink_to(tmp_path / "elsewhere")
    directory.set_name("new", [IMAGE])
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "layout/.distsdk-index").is_symlink()


# Made by several at the same time


@both
@pytest.mark.parametrize("sibling", [OfStore, OfRemote])
def test_a_layout_that_another_process_makes_meanwhile_is_not_foreign(
    tmp_path: Path, side: Callable[[Path], Side], sibling: Callable[[Path], Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes all of it after ``oci-layout`` was missed, and before the directory is listed."""
    real = os.scandir
    siblings: list[None] = []

    def late(path: Any) -> Any:  # noqa: ANN401 - as os.scandir
        if not siblings:
            siblings.append(None)
            sibling(tmp_path / "layout").add("theirs")
            (tmp_path / "layout/.distsdk-0123456789abcdef").touch()  # a blob that is coming in
        return real(path)

    monkeypatch.setattr(os, "scandir", late)
    layout = side(tmp_path / "layout")
    layout.add("ours")
    assert [None] == siblings
    assert ["theirs", "ours"] == layout.names()


@both
def test_names_read_while_another_process_makes_the_layout(
    tmp_path: Path, side: Callable[[Path], Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``index.json`` is missed, and then ``oci-layout`` is there: the index is too."""
    (tmp_path / "layout").mkdir()
    layout = OfStore(tmp_path / "layout")
    real = reader.Layout.check
    siblings: list[None] = []

    def late(self: reader.Layout) -> None:
        if not siblings:
            siblings.append(None)
            side(tmp_path / "layout").add("theirs")
        real(self)

    monkeypatch.setattr(reader.Layout, "check", late)
    assert ["theirs"] == layout.names()


@pytest.mark.slow
@both
def test_many_threads_make_one_layout(tmp_path: Path, side: Callable[[Path], Side]) -> None:
    """None fails, and no name is lost."""
    failures: list[BaseException] = []
    ready = threading.Barrier(8)

    def work(folder: Path, number: int) -> None:
        try:
            ready.wait()
            side(folder).add(f"v{number}")
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    for turn in range(10):
        folder = tmp_path / str(turn)
        threads = [threading.Thread(target=work, args=(folder, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == failures
        assert {f"v{number}" for number in range(8)} == set(side(folder).names())


WRITER = """
import sys
from pathlib import Path
import distsdk
from distsdk.spec import media_types as media
raw, folders, number = sys.argv[1].encode(), Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
for folder in sys.stdin:
    distsdk.connect(str(folders / folder.strip())).push_document(raw, media.OCI_INDEX, tag=f"v{number}")
    print("done", flush=True)
"""


@pytest.mark.slow
def test_many_processes_make_one_layout(tmp_path: Path) -> None:
    """None fails, and no name is lost."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, EMPTY.decode(), str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert "ready\n" == writer.stdout.readline()
        for turn in range(10):
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.write(f"{turn}\n")
                writer.stdin.flush()
            for writer in writers:
                assert writer.stdout is not None
                assert "done\n" == writer.stdout.readline()
            assert {f"v{number}" for number in range(6)} == set(OfRemote(tmp_path / str(turn)).names())
    finally:
        for writer in writers:
            writer.communicate()
