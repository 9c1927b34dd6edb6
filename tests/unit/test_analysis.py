"""Where the bytes of an image are, what is installed in it, and what differs between two."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import sqlite3
import struct
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

import distsdk
from distsdk import Cache, Descriptor, Diff, Image, Package
from distsdk.analysis import packages
from distsdk.analysis.usage import usage
from distsdk.errors import LimitExceeded, MalformedDocument, Unsafe
from distsdk.spec.media_types import OCI_CONFIG, OCI_MANIFEST
from distsdk.testing import Registry, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parents[1] / "data"
REAL: dict[str, dict[str, Any]] = json.loads((DATA / "layers/descriptors.json").read_text())
#: Made by rpm 4.18 from two packages.
RPMDB = gzip.decompress((DATA / "packages/rpmdb.sqlite.gz").read_bytes())
RPMS = (
    Package("hello", "2:1.2-3", "x86_64", "rpm"),
    Package("hello-libs", "2:1.2-3", "noarch", "rpm"),
)
NOISE = [random.Random(seed).randbytes(100_000) for seed in range(3)]
BLOBS = r"/blobs/"

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, /, **fields: Any) -> Entry:  # noqa: ANN401 - a field each
    """Return an entry of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def layer(*entries: Entry | tuple[str, bytes]) -> bytes:
    """Return a layer, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in entries:
            made = entry(info, data)[0] if isinstance(info, str) else info
            tar.addfile(made, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry; the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry:
        yield registry


@pytest.fixture
def make(registry: Registry, tmp_path: Path) -> Callable[..., Image]:
    """Make an image of layers, or of files, and look into it."""
    count = 0

    def image(*layers: bytes, files: dict[str, bytes] | None = None, strict: bool = False, **config: Any) -> Image:  # noqa: ANN401 - a field each
        nonlocal count
        count += 1
        if files is not None:
            layers = (*layers, layer(*files.items()))
        registry.add_image("x", str(count), layers=layers, config=config)
        name = f"{registry.locator('x')}:{count}"
        return distsdk.image(name, platform="linux/amd64", cache=Cache(tmp_path / "cache"), strict=strict)

    return image


# Usage


def test_every_byte_is_in_one_folder_and_one_layer(make: Callable[..., Image]) -> None:
    """Files that are replaced, removed by a whiteout or hidden by an opaque folder are wasted; links count once."""
    image = make(
        layer(
            ("a/kept", b"1" * 10), ("a/replaced", b"2" * 200), ("a/removed", b"3" * 3000), ("b/hidden", b"4" * 40_000)
        ),
        layer(
            ("a/replaced", b"5" * 7),
            ("a/.wh.removed", b""),
            ("b/.wh..wh..opq", b""),
            ("b/new", b"6" * 500),
            entry("b/link", b"", tarfile.LNKTYPE, linkname="b/new"),
            entry("c", b"", tarfile.SYMTYPE, linkname="b/new"),
        ),
    )
    found = usage(image)
    assert {"/": 517, "/a": 17, "/b": 500} == dict(found.folders)
    assert (517, 43_200) == (found.content, found.wasted)
    assert [(43_210, 4, 43_200), (507, 2, 0)] == [(part.content, part.files, part.wasted) for part in found.layers]
    assert [made.size for made in image.layers] == [part.packed for part in found.layers]


def test_a_file_that_a_hard_link_keeps_is_not_wasted(make: Callable[..., Image]) -> None:
    """Its first name goes, and its bytes are seen by the other one."""
    image = make(
        layer(("first", b"x" * 99), entry("second", b"", tarfile.LNKTYPE, linkname="first")),
        layer((".wh.first", b"")),
    )
    assert (99, 0) == (usage(image).content, usage(image).wasted)


def test_an_empty_image_uses_nothing(make: Callable[..., Image]) -> None:
    """No layers, no bytes."""
    assert (0, 0, ()) == (usage(make()).content, usage(make()).wasted, usage(make()).layers)


# Packages

DPKG = b"""\
Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134
Conffiles:
 Package: /etc/not-a-field 1
Description: add and remove users

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: never
Status: purge ok not-installed
Architecture: amd64

Package: half
Status: install reinstreq half-installed
Architecture: amd64
Version: 2:1.0~rc1-1
Description: broken

Package: libc6
Status: hold ok installed
Multi-Arch: same
Architecture: i386
Version: 2.36-9

Package: libc6
Status: install ok triggers-pending
Multi-Arch: same
Architecture: amd64
Version: 2.36-9"""
APK = b"""\
C:Q1hdUpqRv5mYgJEqW52UmVsvmeysE=
P:musl
V:1.2.4-r2
A:x86_64
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1LwfM4zqjm0TKHtpXhAwJoUZ1jG8=

C:Q1
P:busybox
V:1.36.1-r5
A:x86_64

"""


def test_dpkg_lists_what_is_installed(make: Callable[..., Image]) -> None:
    """Not what only left its settings behind; of two architectures both; continued lines are no fields."""
    image = make(files={"var/lib/dpkg/status": DPKG})
    assert (
        Package("adduser", "3.134", "all", "dpkg"),
        Package("half", "2:1.0~rc1-1", "amd64", "dpkg"),
        Package("libc6", "2.36-9", "amd64", "dpkg"),
        Package("libc6", "2.36-9", "i386", "dpkg"),
    ) == image.packages()


def test_distroless_has_a_file_for_each_package(make: Callable[..., Image]) -> None:
    """They have no status, and lists of checksums beside them."""
    image = make(
        files={
            "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12\nArchitecture: amd64\n",
            "var/lib/dpkg/status.d/base.md5sums": b"Package: no\nVersion: 1\n",
            "var/lib/dpkg/status.d/libssl3": b"Package: libssl3\nArchitecture: amd64\nVersion: 3.0.11-1\n",
        }
    )
    assert [("base-files", "12"), ("libssl3", "3.0.11-1")] == [(p.name, p.version) for p in image.packages()]


@pytest.mark.parametrize("path", ["lib/apk/db/installed", "usr/lib/apk/db/installed"])
def test_apk_lists_what_is_installed(make: Callable[..., Image], path: str) -> None:
    """In its short fields, whose case counts."""
    assert (
        Package("busybox", "1.36.1-r5", "x86_64", "apk"),
        Package("musl", "1.2.4-r2", "x86_64", "apk"),
    ) == make(files={path: APK}).packages()


@pytest.mark.parametrize("folder", ["var/lib/rpm", "usr/lib/sysimage/rpm"])
def test_rpm_lists_what_is_installed(make: Callable[..., Image], folder: str) -> None:
    """Epoch, version and release, as rpm's own database has them; a link between the places changes nothing."""
    files = {f"{folder}/rpmdb.sqlite": RPMDB, f"{folder}/rpmdb.sqlite-wal": b""}
    assert RPMS == make(files=files).packages()
    link = entry("var/lib/rpm", b"", tarfile.SYMTYPE, linkname="../../usr/lib/sysimage/rpm")
    assert RPMS == make(layer(("usr/lib/sysimage/rpm/rpmdb.sqlite", RPMDB), link)).packages()


def rpmdb(
    *headers: object, tmp_path: Path, schema: str = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob)"
) -> bytes:
    """Return a database with such a schema, and these headers where it takes them."""
    path = tmp_path / "made.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.executescript(schema)
        for header in headers:
            database.execute("INSERT INTO Packages (blob) VALUES (?)", [header])
    database.close()
    return path.read_bytes()


def header(**texts: str) -> bytes:
    """Return a header of rpm's with these texts."""
    tags = {"name": 1000, "version": 1001, "release": 1002, "arch": 1022}
    index, data = b"", b""
    for name, text in texts.items():
        index += struct.pack(">IIII", tags[name], 6, len(data), 1)
        data += text.encode() + b"\0"
    return struct.pack(">II", len(texts), len(data)) + index + data


def test_what_is_only_in_the_log_of_a_database_counts(make: Callable[..., Image], tmp_path: Path) -> None:
    """SQLite keeps what was written last beside the database, where nobody closed it properly."""
    path = tmp_path / "rpmdb.sqlite"
    database = sqlite3.connect(path)
    database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    database.execute("INSERT INTO Packages (blob) VALUES (?)", [header(name="late", version="1", release="2")])
    database.commit()
    files = {f"var/lib/rpm/{file.name}": file.read_bytes() for file in tmp_path.glob("rpmdb.sqlite*")}
    database.close()
    assert len(files["var/lib/rpm/rpmdb.sqlite-wal"]) > 0
    assert (Package("late", "1-2", "", "rpm"),) == make(files=files).packages()


def test_several_managers_and_none(make: Callable[..., Image]) -> None:
    """All databases are read, and sorted by manager; an image without one has no packages."""
    image = make(files={"var/lib/dpkg/status": DPKG, "lib/apk/db/installed": APK, "var/lib/rpm/rpmdb.sqlite": RPMDB})
    assert [*["apk"] * 2, *["dpkg"] * 4, *["rpm"] * 2] == [package.manager for package in image.packages()]
    assert () == make(files={"a": b""}).packages() == make().packages()


@pytest.mark.slow
def test_only_the_database_is_read(registry: Registry, make: Callable[..., Image]) -> None:
    """Of a layer that is known, a lookup costs no more than what holds the database: here, one span of it."""
    noise = {f"usr/{n}": random.Random(n).randbytes(3_000_000) for n in range(3)}
    image = make(layer(*noise.items()), files={"var/lib/dpkg/status": DPKG})
    image.ls()
    registry.reset()
    assert 4 == len(image.packages())
    assert registry.count_bytes("GET", BLOBS) <= image.layers[1].size


def test_a_registry_that_fails_is_no_image_without_packages(registry: Registry, make: Callable[..., Image]) -> None:
    """A layer that is gone is not taken for a database that is not there."""
    image = make(files={"var/lib/dpkg/status": DPKG})
    registry.fault(Status(404), path=str(image.layers[0].descriptor.digest))
    with pytest.raises(distsdk.NotFound):
        image.packages()


def test_databases_that_are_not_read_are_named(make: Callable[..., Image], caplog: pytest.LogCaptureFixture) -> None:
    """Of rpm's older kinds nothing is known, which is said."""
    assert () == make(files={"var/lib/rpm/Packages": b"\0" * 99}).packages()
    assert "the packages in /var/lib/rpm/Packages are left out" in caplog.text


@pytest.mark.parametrize(
    "target", ["/var/lib/dpkg/status", "/etc", "/nowhere", "../../../../../../etc/passwd"], ids=repr
)
def test_links_in_the_place_of_a_database_lead_nowhere_else(make: Callable[..., Image], target: str) -> None:
    """In a circle, to a folder, to nothing, out of the image: there is no database."""
    link = entry("var/lib/dpkg/status", b"", tarfile.SYMTYPE, linkname=target)
    assert () == make(layer(link, entry("etc", b"", tarfile.DIRTYPE))).packages()


REC = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS blob FROM c WHERE x < 0"
HOSTILE_SCHEMAS = {
    "a view without end": f"CREATE VIEW Packages AS {REC}",
    "another table": "CREATE TABLE x (hnum, blob); INSERT INTO x VALUES (1, x'00');"
    "CREATE VIEW Packages AS SELECT * FROM x",
    "a function": "CREATE TABLE Packages (hnum, a, blob AS (zeroblob(60000000))); INSERT INTO Packages VALUES (1, 2)",
    "no table": "CREATE TABLE Other (a)",
    "no column": "CREATE TABLE Packages (hnum)",
    "text": "CREATE TABLE Packages (hnum, blob); INSERT INTO Packages VALUES (1, 'text')",
    "a number": "CREATE TABLE Packages (hnum, blob); INSERT INTO Packages VALUES (1, 2)",
}


@pytest.mark.parametrize("kind", HOSTILE_SCHEMAS)
def test_a_hostile_schema_is_an_error(make: Callable[..., Image], tmp_path: Path, kind: str) -> None:
    """Nothing that a database defines is run: views, functions, and what is no header, end in one documented error."""
    image = make(files={"var/lib/rpm/rpmdb.sqlite": rpmdb(tmp_path=tmp_path, schema=HOSTILE_SCHEMAS[kind])})
    with pytest.raises(MalformedDocument, match=r"^/var/lib/rpm/rpmdb\.sqlite is no database"):
        image.packages()


GOOD = header(name="x", version="1", release="2", arch="noarch")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0" * 8,
        GOOD[:30],
        GOOD[:-1],
        struct.pack(">II", 2**32 - 1, 2**32 - 1) + GOOD[8:],
        struct.pack(">IIIIII", 1, 2, 1000, 6, 2**31, 1) + b"x\0",
        struct.pack(">IIIIII", 1, 2, 1003, 4, 0, 1) + b"x\0",
        header(version="1", release="2"),
        header(name=""),
    ],
)
def test_a_damaged_header_is_an_error(make: Callable[..., Image], tmp_path: Path, blob: bytes) -> None:
    """Cut, counting more than there is, pointing out of itself, or without a name."""
    image = make(files={"var/lib/rpm/rpmdb.sqlite": rpmdb(GOOD, blob, tmp_path=tmp_path)})
    with pytest.raises(MalformedDocument, match=r"entry 1 of /var/lib/rpm/rpmdb\.sqlite is damaged"):
        image.packages()


def test_the_first_name_in_a_header_counts(make: Callable[..., Image], tmp_path: Path) -> None:
    """Others are not looked at: a header full of them would have its text searched once for each."""
    index = struct.pack(">IIII", 1000, 6, 0, 1) + struct.pack(">IIII", 1000, 6, 2, 1) * 1000
    blob = struct.pack(">II", 1001, 8) + index + b"x\0others\0"
    [package] = make(files={"var/lib/rpm/rpmdb.sqlite": rpmdb(blob, tmp_path=tmp_path)}).packages()
    assert "x" == package.name


@pytest.mark.slow
def test_a_cut_or_changed_database_is_an_error_or_has_fewer_packages(make: Callable[..., Image]) -> None:
    """Whatever is wrong with it, nothing else is raised."""
    source = random.Random(1)
    for _ in range(100):
        damaged = bytearray(RPMDB)
        if source.random() < 0.2:
            del damaged[source.randrange(len(damaged)) :]
        for _ in range(source.randrange(1, 200)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        image = make(files={"var/lib/rpm/rpmdb.sqlite": bytes(damaged)})
        with contextlib.suppress(MalformedDocument):
            image.packages()


def test_too_much_is_refused(make: Callable[..., Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases and their entries have bounds, and so has the number of packages."""
    image = make(files={"var/lib/dpkg/status": DPKG, "var/lib/rpm/rpmdb.sqlite": RPMDB})
    for name, limit, said in (
        ("MAX_DATABASE", len(RPMDB) - 1, r"rpmdb\.sqlite is larger than the limit"),
        ("_MAX_ENTRY", len(DPKG) - 1, "status' is larger than the limit"),
        ("MAX_PACKAGES", 5, "more than 5 packages"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(packages, name, limit)
            with pytest.raises(LimitExceeded, match=said):
                image.packages()


# Differences


def unwanted(_done: int, total: int) -> None:
    """Fail where content would be read."""
    pytest.fail(f"{total} bytes would be read")


def changed(diff: Diff) -> dict[str, tuple[str, ...]]:
    """Return the paths of a difference, each with what happened to it, and how."""
    return {change.path: (change.what, *change.how) for change in diff.files}


def test_an_image_does_not_differ_from_itself(registry: Registry, make: Callable[..., Image]) -> None:
    """Nothing differs, and no content is read for that."""
    image = make(files={"a": NOISE[0], "var/lib/dpkg/status": DPKG}, history=[{"created_by": "x"}])
    again = distsdk.image(image.reference, platform="linux/amd64")
    image.packages(), again.packages()
    registry.reset()
    diff = image.diff(again, on_progress=unwanted)
    assert ((), (), ()) == (diff.settings, diff.packages, diff.files)
    assert [(1, (), ()), (1, (), ())] == [(f.shared, f.before, f.after) for f in (diff.history, diff.layers)]
    assert "0 settings, 0 packages, 0 files" == diff.summary
    assert 0 == registry.count_bytes("GET", BLOBS)


def test_settings_differ_by_name(make: Callable[..., Image]) -> None:
    """Variables and labels by their own; what is empty, null or false is the same as what is missing."""
    before: dict[str, object] = {
        "Env": ["PATH=/bin", "GONE=1", "SAME=2=3"],
        "Cmd": ["a", "b"],
        "Entrypoint": None,
        "Labels": {"x": "1", "y": "2"},
        "ExposedPorts": {"80/tcp": {}},
        "Tty": False,
        "User": "",
    }
    after = {
        "Env": ["SAME=2=3", "PATH=/usr/bin", "NEW="],
        "Cmd": ["a b"],
        "Labels": {"x": "1", "y": "3"},
        "ExposedPorts": {"443/tcp": {}},
        "Volumes": {},
        "Healthcheck": {"Test": ["NONE"]},
    }
    diff = make(config=before, author="me", docker_version="1").diff(
        make(config=after, container="c", **{"os.version": "1"})
    )
    assert {
        "Cmd": (["a", "b"], ["a b"]),
        "Env.GONE": ("1", None),
        "Env.NEW": (None, ""),
        "Env.PATH": ("/bin", "/usr/bin"),
        "ExposedPorts.443/tcp": (None, {}),
        "ExposedPorts.80/tcp": ({}, None),
        "Healthcheck.Test": (None, ["NONE"]),
        "Labels.y": ("2", "3"),
        "author": ("me", None),
        "os.version": (None, "1"),
    } == {change.name: (change.before, change.after) for change in diff.settings}
    assert sorted(change.name for change in diff.settings) == [change.name for change in diff.settings]
    assert {"added", "removed", "changed"} == {change.what for change in diff.settings}


def test_histories_fork_where_steps_differ(make: Callable[..., Image]) -> None:
    """Not where only the time does."""
    before = make(
        history=[{"created": "2020-01-01T00:00:00Z", "created_by": "a"}, {"created_by": "b"}, {"created_by": "c"}]
    )
    after = make(history=[{"created": "2026-01-01T00:00:00Z", "created_by": "a"}, {"created_by": "B"}])
    history = before.diff(after).history
    assert (1, ["b", "c"], ["B"]) == (
        history.shared,
        [step.created_by for step in history.before],
        [step.created_by for step in history.after],
    )


def test_layers_fork_where_they_unpack_to_something_else(make: Callable[..., Image]) -> None:
    """One that is only compressed in another way is the same."""
    base = layer(("a", b"1"))
    other = gzip.compress(gzip.decompress(base), 1, mtime=7)
    top = layer(("b", b"1"))
    assert base != other
    diff = make(base, top).diff(make(other, layer(("c", b"1"))))
    assert 1 == diff.layers.shared
    assert [len(top)] == [descriptor.size for descriptor in diff.layers.before]
    assert {"/b": ("removed",), "/c": ("added",)} == changed(diff)


def test_a_config_that_lies_hides_nothing(registry: Registry, make: Callable[..., Image]) -> None:
    """A layer with a table of contents is not read whole, so that its diffID is only said: it is not believed."""
    image = real(registry, "estargz")
    honest = make(layer(("usr/os", b"other")))
    liar = real(registry, "estargz", diff_id=str(honest.config.diff_ids[0]))
    assert liar.config.diff_ids == honest.config.diff_ids
    diff = liar.diff(honest)
    assert 0 == diff.layers.shared
    assert changed(image.diff(honest)) == changed(diff)
    assert len(diff.files) > 20


def test_packages_are_paired_by_name(make: Callable[..., Image]) -> None:
    """A new version, or another architecture, is a change; of several with one name those of one architecture pair."""

    def status(*packages: tuple[str, str, str]) -> dict[str, bytes]:
        text = "\n\n".join(f"Package: {n}\nVersion: {v}\nArchitecture: {a}" for n, v, a in packages)
        return {"var/lib/dpkg/status": text.encode()}

    before = make(
        files=status(("same", "1", "all"), ("up", "1", "all"), ("gone", "1", "all"), ("arch", "1", "amd64"),
                     ("c", "1", "amd64"), ("c", "1", "i386"), ("k", "1", "all"), ("k", "2", "all"))
    )  # fmt: skip
    after = make(
        files=status(("same", "1", "all"), ("up", "2", "all"), ("new", "1", "all"), ("arch", "1", "arm64"),
                     ("c", "2", "i386"), ("c", "2", "amd64"), ("k", "2", "all"), ("k", "3", "all"), ("k", "4", "all"))
    )  # fmt: skip
    found = [
        (c.package.name, c.what, c.before and (c.before.version, c.before.architecture),
         c.after and (c.after.version, c.after.architecture))
        for c in before.diff(after).packages
    ]  # fmt: skip
    assert [
        ("arch", "changed", ("1", "amd64"), ("1", "arm64")),
        ("c", "changed", ("1", "amd64"), ("2", "amd64")),
        ("c", "changed", ("1", "i386"), ("2", "i386")),
        ("gone", "removed", ("1", "all"), None),
        ("k", "changed", ("1", "all"), ("3", "all")),
        ("k", "added", None, ("4", "all")),
        ("new", "added", None, ("1", "all")),
        ("up", "changed", ("1", "all"), ("2", "all")),
    ] == found


def test_files_differ_in_many_ways(make: Callable[..., Image]) -> None:
    """By kind, content, link, device, mode, owner, extended attribute; not by time. All in a lost folder is listed."""
    base = [
        entry("touched", b"x", mtime=1),
        entry("kind", b"x"),
        entry("longer", b"x"),
        entry("content", b"abc"),
        entry("link", b"", tarfile.SYMTYPE, linkname="a"),
        entry("null", b"", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("mode", b"x", mode=0o644),
        entry("owner", b"x", uid=0),
        entry("xattr", b"x"),
        entry("all", b"abc"),
        entry("folder", b"", tarfile.DIRTYPE, mode=0o755),
        entry("gone", b"", tarfile.DIRTYPE),
        entry("gone/below", b"1234"),
        entry("empty", b""),
    ]
    other = [
        entry("touched", b"x", mtime=2),
        entry("kind", b"", tarfile.DIRTYPE),
        entry("longer", b"xx"),
        entry("content", b"abd"),
        entry("link", b"", tarfile.SYMTYPE, linkname="b"),
        entry("null", b"", tarfile.CHRTYPE, devmajor=1, devminor=5),
        entry("mode", b"x", mode=0o600),
        entry("owner", b"x", uid=7),
        entry("xattr", b"x", pax_headers={"SCHILY.xattr.user.a": "b"}),
        entry("all", b"abd", mode=0o4755, gid=5),
        entry("folder", b"", tarfile.DIRTYPE, mode=0o1777),
        entry("come", b"12"),
        entry("empty", b"", mtime=5),
    ]
    diff = make(layer(*base)).diff(make(layer(*other)))
    assert {
        "/all": ("changed", "content", "mode", "owner"),
        "/come": ("added",),
        "/content": ("changed", "content"),
        "/folder": ("changed", "mode"),
        "/gone": ("removed",),
        "/gone/below": ("removed",),
        "/kind": ("changed", "kind"),
        "/link": ("changed", "link"),
        "/longer": ("changed", "content"),
        "/mode": ("changed", "mode"),
        "/null": ("changed", "device"),
        "/owner": ("changed", "owner"),
        "/xattr": ("changed", "xattrs"),
    } == changed(diff)
    assert sorted(changed(diff)) == [change.path for change in diff.files]
    sizes = {change.path: change.sizes for change in diff.files}
    assert [(0, 2), (4, 0), (1, 2)] == [sizes[path] for path in ("/come", "/gone/below", "/longer")]


def test_the_root_counts(make: Callable[..., Image]) -> None:
    """Its mode and owner are in the layers, too."""
    diff = make(layer(entry(".", b"", tarfile.DIRTYPE))).diff(make(layer(entry(".", b"", tarfile.DIRTYPE, mode=0o700))))
    assert {"/": ("changed", "mode")} == changed(diff)


def test_what_both_have_from_one_layer_is_not_read(registry: Registry, make: Callable[..., Image]) -> None:
    """Of a shared layer nothing is compared; files of other layers are, if their sizes are equal; each is read once."""
    shared = layer(("big", NOISE[0]), entry("also", b"", tarfile.LNKTYPE, linkname="big"))
    a = make(shared, layer(("same", NOISE[1]), ("other", NOISE[1]), ("size", b"1")))
    b = make(shared, layer(("same", NOISE[1]), ("other", NOISE[2]), ("size", b"12")))
    told: list[tuple[int, int]] = []
    diff = a.diff(b, on_progress=lambda *numbers: told.append(numbers))
    assert {"/other": ("changed", "content"), "/size": ("changed", "content")} == changed(diff)
    total = 4 * len(NOISE[1])
    assert [(0, total), (total, total)] == [told[0], told[-1]]
    assert sorted(told) == told


def test_a_layer_in_another_place_is_still_the_same(make: Callable[..., Image]) -> None:
    """A file needs no look where it comes from a layer that the other image has higher up."""
    one, two = layer(("a", NOISE[0])), layer(("b", NOISE[1]))
    diff = make(one, two).diff(make(two, one), on_progress=unwanted)
    assert (0, {}) == (diff.layers.shared, changed(diff))


def test_a_hard_link_is_what_it_leads_to(make: Callable[..., Image]) -> None:
    """The same layer on another base links to other content: it is looked at, and not taken for the same."""
    link = layer(entry("link", b"", tarfile.LNKTYPE, linkname="file"))
    a, b = make(layer(("file", b"one")), link), make(layer(("file", b"two")), link)
    assert {"/file": ("changed", "content"), "/link": ("changed", "content")} == changed(a.diff(b))


def real(registry: Registry, kind: str, diff_id: str | None = None, cache: Cache | None = None) -> Image:
    """Return an image of a layer that another tool made, with a table of contents."""
    data = (DATA / "layers" / kind).read_bytes()
    described = Descriptor.from_fields(REAL[kind], where="")
    registry.add_blob("x", data)
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id or f"sha256:{hashlib.sha256(data).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.add_blob("x", json.dumps(config).encode(), media_type=OCI_CONFIG).to_fields(),
        "layers": [described.to_fields()],
    }
    added = registry.add_manifest("x", manifest, OCI_MANIFEST)
    return distsdk.image(f"{registry.locator('x')}@{added.digest}", platform="linux/amd64", cache=cache)


def test_tables_of_contents_tell_files_apart(registry: Registry, tmp_path: Path) -> None:
    """Three tools packed the same files: the digests in their tables agree, and no content is read."""
    cache = Cache(tmp_path)
    images = [real(registry, kind, cache=cache) for kind in REAL]
    for image in images:
        image.ls()
    registry.reset()
    landmark = {"/.no.prefetch.landmark"}
    for a in images:
        for b in images:
            assert changed(a.diff(b, on_progress=unwanted)).keys() <= landmark
    assert 0 == registry.count_bytes("GET", BLOBS)


def test_a_table_is_held_against_content(registry: Registry, make: Callable[..., Image]) -> None:
    """Where one image has a table and the other none, only the other one is read."""
    packed = (DATA / "layers/estargz").read_bytes()
    told: list[tuple[int, int]] = []
    diff = real(registry, "estargz").diff(
        make(gzip.decompress(packed)), on_progress=lambda *numbers: told.append(numbers)
    )
    assert {"/stargz.index.json": ("added",)} == changed(diff)
    assert 329_269 == told[0][1]


def test_a_strict_image_compares_nothing_unverified(registry: Registry, make: Callable[..., Image]) -> None:
    """What nothing vouches for is refused here too."""
    image = make(files={"a": b"1"})
    other = make(files={"a": b"2"}, strict=True)
    assert {"/a": ("changed", "content")} == changed(image.diff(other))
    odd = real(registry, "estargz")
    odd.layers[0].files.descriptor = evolve(odd.layers[0].descriptor, annotations={})
    odd.ls()
    odd._strict = True
    with pytest.raises(Unsafe):
        odd.open("/usr/os")


def test_a_diff_is_shown_in_a_line_and_pinned(make: Callable[..., Image]) -> None:
    """Its names have the digests of the manifests, so that it can be made again."""
    a, b = make(files={"a": b"1", "b": b""}), make(files={"a": b"2"})
    diff = a.diff(b)
    assert f"<Diff {a.reference}@{a.digest} {b.reference}@{b.digest} 0 settings, 0 packages, 2 files>" == repr(diff)
    assert diff == a.diff(b)
    assert diff != b.diff(a)
