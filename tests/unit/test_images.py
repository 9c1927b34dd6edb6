"""An image as a person thinks of it: what a look costs, what is refused, and where what it shows comes from."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Cache, Descriptor, Image, Layer, Manifest, Platform, Store
from distsdk.errors import (
    DigestMismatch,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    PlatformNotFound,
    Unsafe,
)
from distsdk.spec.media_types import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from distsdk.testing import Registry, Status, WrongBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parents[1] / "data" / "layers"
REAL: dict[str, dict[str, Any]] = json.loads((DATA / "descriptors.json").read_text())
NOISE = random.Random(1).randbytes(200_000)
BLOBS = r"/blobs/"


def layer(files: dict[str, bytes]) -> bytes:
    """Return a layer of these files, compressed; ``/`` at the end makes a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type, info.size = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE, len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


LOWER = layer({"etc/": b"", "etc/passwd": b"root", "etc/group": b"old", "bin/tool": NOISE})
UPPER = layer({"etc/group": b"newer", "opt/x": b"x"})
HISTORY: list[dict[str, object]] = [
    {"created_by": "ADD rootfs"},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"created_by": "COPY x"},
]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """An index ``7`` of two platforms, and the image ``1`` of two layers by itself; the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry:
        images = [
            registry.add_image("x", layers=[layer({"arch": name.encode()})], platform=name)
            for name in ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/s390x", "linux/ppc64le")
        ]
        registry.add_index("x", "7", manifests=images)
        registry.add_image("x", "1", layers=[LOWER, UPPER], config={"history": HISTORY})
        yield registry


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def look(registry: Registry, cache: Cache) -> Callable[..., Image]:
    """Return an image by its tag, looked into with that cache."""

    def image(tag: str, **more: Any) -> Image:  # noqa: ANN401 - as `distsdk.image`
        return distsdk.image(f"{registry.locator('x')}:{tag}", **{"platform": "linux/amd64", "cache": cache, **more})

    return image


def add_real(registry: Registry, kind: str, *, annotated: bool = True) -> None:
    """Add an image of a layer that another tool made, with a table of contents, under the tag of its kind."""
    fields = dict(REAL[kind])
    if not annotated:
        del fields["annotations"]
    data = (DATA / kind).read_bytes()
    plain = gzip.decompress(data) if kind == "estargz" else None
    registry.add_blob("x", data)
    diff_id = str(distsdk.Digest.of(plain if plain is not None else data))
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    described = registry.add_blob("x", json.dumps(config).encode(), media_type=OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_fields(),
        "layers": [Descriptor.from_fields(fields, where="").to_fields()],
    }
    registry.add_manifest("x", manifest, OCI_MANIFEST, tags=[kind])


# Which one it is


def test_by_default_it_is_for_this_machine(registry: Registry, cache: Cache) -> None:
    """Of an index the child for linux on this architecture is chosen, or the one that is asked for."""
    name = f"{registry.locator('x')}:7"
    assert Platform.local() == distsdk.image(name, cache=cache).platform
    for platform in ("linux/arm64", "linux/s390x"):
        assert platform == str(distsdk.image(name, platform=platform, cache=cache).platform)
        assert platform == distsdk.image(name, platform=Platform.parse(platform), cache=cache).read_text("/arch")
    with pytest.raises(PlatformNotFound, match=r"nothing here for windows/amd64: choose one of linux/amd64"):
        distsdk.image(name, platform="windows/amd64")


def test_it_is_found_by_digest_too(registry: Registry, look: Callable[..., Image]) -> None:
    """A digest of a manifest, or of an index, with a tag or without."""
    one = look("1")
    pinned = distsdk.image(f"{registry.locator('x')}@{one.digest}")
    assert one.digest == pinned.digest == distsdk.image(f"{registry.locator('x')}:gone@{one.digest}").digest
    index = distsdk.connect(registry.locator("x")).fetch("7").digest
    assert look("7").digest == distsdk.image(f"{registry.locator('x')}@{index}", platform="linux/amd64").digest


def test_manifest_and_config_are_all_that_is_fetched(registry: Registry, look: Callable[..., Image]) -> None:
    """An image costs two documents; what it says of itself and shows costs nothing more."""
    image = look("1")
    assert [("GET", 200)] * 2 == [(r.method, r.status) for r in registry.requests]
    assert 2 == len(image.layers)
    assert HISTORY == [
        {"created_by": step.created_by, **({"empty_layer": True} if step.empty_layer else {})} for step in image.history
    ]
    assert len(image.manifest.raw) + len(image.config.raw) + len(LOWER) + len(UPPER) == image.download_size
    assert f"<Image {registry.locator('x')}:1 linux/amd64 2 layers, " in repr(image)
    assert "COPY x" in image._repr_html_()
    assert "'COPY x'" in repr(image.layers[1])
    assert 2 == len(registry.requests)


def test_an_artifact_is_refused_by_name(registry: Registry, cache: Cache) -> None:
    """What has no image config is none; the message says what it is, and what to do."""
    registry.add_artifact("x", "sbom", artifact_type="application/spdx+json", files={"a": b"{}"})
    with pytest.raises(MediaTypeMismatch, match=r"not an image but an artifact of type application/spdx\+json; fetch"):
        distsdk.image(f"{registry.locator('x')}:sbom", cache=cache)


def test_what_is_not_there_is_not_found(look: Callable[..., Image]) -> None:
    """As for any other object of a registry."""
    with pytest.raises(NotFound):
        look("nothing")


def test_layers_and_config_have_to_agree(registry: Registry, look: Callable[..., Image]) -> None:
    """A config that names more layers than the manifest has, or fewer, is refused before anything is read."""
    registry.add_image("x", "odd", layers=[LOWER], config={"rootfs": {"type": "layers", "diff_ids": []}})
    with pytest.raises(MalformedDocument, match=r"config of .*:odd is invalid: expected 1 diffID, .* got 0"):
        look("odd")


# History


def test_each_layer_has_the_step_that_made_it(look: Callable[..., Image]) -> None:
    """Steps that left no layer are passed over; a path leads to its layer, and to the step."""
    image = look("1")
    assert ["ADD rootfs", "COPY x"] == [made.history and made.history.created_by for made in image.layers]
    for path, number in (("/opt/x", 1), ("/etc/group", 1), ("/etc/passwd", 0), ("/opt", 1)):
        assert number == image.which_layer(path).number
    assert image.which_layer("/bin/tool").history == image.history[0]


@pytest.mark.parametrize("history", [[], HISTORY[:2], [*HISTORY, {"created_by": "one more"}]])
def test_a_history_that_does_not_fit_is_not_guessed_at(
    registry: Registry, look: Callable[..., Image], history: list[dict[str, object]]
) -> None:
    """Where the steps are not as many as the layers, no layer claims one."""
    registry.add_image("x", "odd", layers=[LOWER, UPPER], config={"history": history})
    image = look("odd")
    assert [None, None] == [made.history for made in image.layers]
    assert "None" not in image._repr_html_()


# What it costs


def test_layers_that_are_not_needed_are_left_alone(registry: Registry, look: Callable[..., Image]) -> None:
    """What the top layer decides costs that layer; what it does not decide costs the one below as well."""
    image = look("1")
    registry.reset()
    assert "newer" == image.read_text("/etc/group")
    assert {f"/v2/x/blobs/{image.layers[1].descriptor.digest}"} == {r.path for r in registry.requests}
    assert "root" == image.read_text("/etc/passwd")
    assert 2 == len({r.path for r in registry.requests})


def test_the_cost_is_told_beforehand_and_paid_once(registry: Registry, look: Callable[..., Image]) -> None:
    """It is the bytes of both layers, then nothing; nor does another process, or another object, pay again."""
    image = look("1")
    assert len(LOWER) + len(UPPER) == image.cost
    registry.reset()
    assert ["/bin", "/bin/tool", "/etc", "/etc/group", "/etc/passwd", "/opt", "/opt/x"] == [
        e.path for e in image.walk()
    ]
    assert len(LOWER) + len(UPPER) == registry.count_bytes("GET", BLOBS)
    assert 0 == image.cost
    registry.reset()
    again = look("1")
    assert 0 == again.cost
    assert 7 == len(list(again.walk()))
    assert 1 == registry.count("GET", BLOBS)  # the config


def test_a_layer_that_is_there_twice_costs_once(registry: Registry, look: Callable[..., Image]) -> None:
    """As it is read once."""
    registry.add_image("x", "twice", layers=[LOWER, LOWER])
    image = look("twice")
    assert len(LOWER) == image.cost
    registry.reset()
    list(image.walk())
    assert len(LOWER) == registry.count_bytes("GET", BLOBS)


@pytest.mark.slow
def test_another_process_finds_the_cache(registry: Registry, tmp_path: Path) -> None:
    """The default cache is a folder of the user's, shared by processes."""
    name = f"{registry.locator('x')}:1"
    distsdk.image(name, platform="linux/amd64").ls()
    assert list((tmp_path / "caches" / "distsdk" / "layers").iterdir())
    registry.reset()
    program = f"import distsdk; print(distsdk.image({name!r}, platform='linux/amd64').cost)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "0\n" == done.stdout
    assert 0 == registry.count_bytes("GET", BLOBS + str(distsdk.Digest.of(LOWER)))


@pytest.mark.parametrize("kind", REAL)
def test_a_table_of_contents_is_all_that_a_listing_costs(
    registry: Registry, look: Callable[..., Image], kind: str
) -> None:
    """Of layers that other tools made, the table is read; a file costs its own chunks, and is vouched for."""
    add_real(registry, kind)
    image = look(kind)
    registry.reset()
    cost = image.cost
    assert cost < REAL[kind]["size"] / 20
    assert 2 == len(list(image.glob("/usr/bin/tool*")))
    assert cost == pytest.approx(registry.count_bytes("GET", BLOBS), abs=100)
    with image.open("/usr/os") as file:
        assert "chunk-verified" == file.trust
        assert 24 == len(file.read())
    assert registry.count_bytes("GET", BLOBS) < REAL[kind]["size"] / 10


def test_a_strict_image_believes_no_table_that_nothing_vouches_for(
    registry: Registry, look: Callable[..., Image]
) -> None:
    """Without the annotation the table is used, and said to be unverified; a strict image reads the layer instead."""
    add_real(registry, "estargz", annotated=False)
    with look("estargz", cache=None).open("/usr/os") as file:
        assert "unverified" == file.trust
    strict = look("estargz", strict=True)
    assert REAL["estargz"]["size"] == strict.cost
    with strict.open("/usr/os") as file:
        assert "chunk-verified" == file.trust


def test_a_strict_image_hands_out_nothing_unverified(registry: Registry, look: Callable[..., Image]) -> None:
    """Even where its layers were made to believe such a table."""
    add_real(registry, "estargz", annotated=False)
    image = look("estargz", cache=None)
    image.ls()
    image._strict = True
    with pytest.raises(Unsafe, match="cannot be verified"):
        image.open("/usr/os")


# The store


def test_what_was_pulled_is_read_without_a_request(
    registry: Registry, look: Callable[..., Image], tmp_path: Path
) -> None:
    """By name, for the platform that was pulled: documents, listings and files come from the store."""
    store = Store(tmp_path / "store")
    name = f"{registry.locator('x')}:7"
    distsdk.pull(name, store, platform="linux/arm64")
    distsdk.pull(f"{registry.locator('x')}:1", store, platform="linux/amd64")
    registry.reset()
    registry.fault(Status(500))
    for place in (store, store.root, str(store.root)):
        assert "linux/arm64" == look("7", platform="linux/arm64", store=place).read_text("/arch")
    assert NOISE == look("1", store=store).read_bytes("/bin/tool")
    assert [] == registry.requests


def test_a_pull_for_another_platform_is_not_it(registry: Registry, look: Callable[..., Image], tmp_path: Path) -> None:
    """What was asked for by its platform is fetched where the store has another; without one, what is there is it."""
    store = Store(tmp_path / "store")
    distsdk.pull(f"{registry.locator('x')}:7", store, platform="linux/arm64")
    assert "linux/amd64" == look("7", platform="linux/amd64", store=store).read_text("/arch")
    assert "linux/arm64" == look("7", platform="linux/arm64", store=store).read_text("/arch")
    assert "linux/arm64" == look("7", platform=None, store=store).read_text("/arch")


def test_what_the_store_lacks_is_fetched(registry: Registry, look: Callable[..., Image], tmp_path: Path) -> None:
    """A layer that is missing from a pulled image, and an image that was not pulled."""
    store = Store(tmp_path / "store")
    distsdk.pull(f"{registry.locator('x')}:1", store, platform="linux/amd64")
    digest = look("1").layers[1].descriptor.digest
    store.delete(digest)
    registry.reset()
    assert "newer" == look("1", store=store).read_text("/etc/group")
    assert {f"/v2/x/blobs/{digest}"} == {r.path for r in registry.requests}
    assert "linux/amd64" == look("7", store=store).read_text("/arch")


def test_indexes_within_indexes_end(registry: Registry, look: Callable[..., Image], tmp_path: Path) -> None:
    """A name that the store has for an index of an index of … is followed as far as a registry's is, and no further."""
    store = Store(tmp_path / "store")
    deep = Descriptor(OCI_MANIFEST, look("1").digest, len(look("1").manifest.raw), Platform("linux", "amd64"))
    for _ in range(6):
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [deep.to_fields()]}).encode()
        found = store.ingest(io.BytesIO(raw), "an-index")
        deep = Descriptor(OCI_INDEX, found.digest, len(raw), Platform("linux", "amd64"))
    name = f"{registry.locator('x')}:deep"
    store.tag(name, deep)
    with pytest.raises(LimitExceeded, match="more than 4 deep"):
        look("deep", store=store)


# Reading


def test_a_file_that_is_too_large_is_refused_before_it_is_read(registry: Registry, look: Callable[..., Image]) -> None:
    """The limit of what is held in memory is compared with what the header says; nothing is fetched for it."""
    image = look("1")
    image.ls()
    registry.reset()
    with pytest.raises(LimitExceeded, match=r"'/bin/tool' is larger than the limit of 199999 bytes; open\(\) it"):
        image.read_bytes("/bin/tool", limit=len(NOISE) - 1)
    assert [] == registry.requests
    assert NOISE == image.read_bytes("/bin/tool", limit=len(NOISE))
    with pytest.raises(LimitExceeded):
        image.read_text("/etc/passwd", limit=3)


def test_text_is_utf_8(registry: Registry, look: Callable[..., Image]) -> None:
    """Anything else is an error, not a guess."""
    registry.add_image("x", "text", layers=[layer({"good": "größe".encode(), "bad": b"\xff"})])
    assert "größe" == look("text").read_text("/good")
    with pytest.raises(UnicodeDecodeError):
        look("text").read_text("/bad")


def test_damage_is_an_error_and_no_content(registry: Registry, look: Callable[..., Image]) -> None:
    """Wrong bytes in a layer are found by the pass; nothing is remembered of them."""
    image = look("1")
    registry.fault(WrongBytes(), path=str(image.layers[0].descriptor.digest))
    with pytest.raises(DigestMismatch):
        image.read_bytes("/bin/tool")
    registry.clear_faults()
    assert NOISE == look("1").read_bytes("/bin/tool")


def test_a_layer_that_unpacks_to_something_else_is_refused(registry: Registry, look: Callable[..., Image]) -> None:
    """The config's diffID counts."""
    diff_ids = [str(distsdk.Digest.of(b"something else"))]
    registry.add_image("x", "lies", layers=[LOWER], config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})
    with pytest.raises(DigestMismatch):
        look("lies").ls()


# Layers that are named more than once


def test_a_layer_that_is_named_often_is_held_once(registry: Registry, look: Callable[..., Image]) -> None:
    """A blob that an image names many times as a layer is read once, and its members are in memory once."""
    registry.add_image("x", "often", layers=[LOWER] * 16)
    image = look("often")
    registry.reset()
    assert image.ls()
    assert [image.layers[0].members] * 16 == [layer.members for layer in image.layers]
    assert 1 == len({id(layer.members) for layer in image.layers})
    assert list(range(16)) == [layer.number for layer in image.layers]
    assert registry.count_bytes("GET", BLOBS) < 2 * len(LOWER)


# Progress


def test_a_pass_is_told_before_it_begins(
    registry: Registry, look: Callable[..., Image], caplog: pytest.LogCaptureFixture
) -> None:
    """A callable hears of the layer first, then of the bytes read; the log says how many there are. Once."""
    told: list[tuple[Layer, int, int]] = []
    image = look("1", progress=lambda layer, count: told.append((layer, count, registry.count_bytes("GET", BLOBS))))
    registry.reset()
    with caplog.at_level(logging.INFO, "distsdk"):
        image.read_text("/etc/group")
    assert {image.layers[1]} == {layer for layer, *_ in told}
    footer = min(72, len(UPPER))  # where a table of contents would be found
    assert [0, len(UPPER)] == [told[0][1], told[-1][1]]
    assert told[0][2] <= footer
    assert f"reading layer 1, {len(UPPER)} bytes, once: it has no table of contents" in caplog.text
    told.clear()
    image.read_text("/etc/group")
    assert [] == told


def test_unpack_reports_packed_bytes(look: Callable[..., Image], tmp_path: Path) -> None:
    """`Image.unpack` calls ``progress`` with the packed bytes of all layers together, from 0 to their sum."""
    image = look("1")
    seen: list[int] = []
    image.unpack(tmp_path / "target", progress=seen.append)
    assert [0, sum(layer.size for layer in image.layers)] == [seen[0], seen[-1]]


def test_a_bar_is_for_terminals(look: Callable[..., Image], capsys: pytest.CaptureFixture[str]) -> None:
    """``progress=True`` draws nothing where there is no terminal."""
    look("1", progress=True).ls()
    assert ("", "") == capsys.readouterr()


# Unpacking


def test_unpacking_is_that_of_the_layers(look: Callable[..., Image], tmp_path: Path) -> None:
    """The files are there, and what the config says is checked; a rehearsal writes nothing."""
    image = look("1")
    seen: list[bytes] = []
    image.unpack(tmp_path / "dry", dry_run=True, on_progress=lambda member: seen.append(member.path))
    assert not (tmp_path / "dry").exists()
    assert {b"etc/group", b"opt/x", b"bin/tool"} <= set(seen)
    if os.name == "posix":
        applied = image.unpack(tmp_path / "root")
        assert image.config.diff_ids == applied.diff_ids
        files = {str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*") if path.is_file()}
        assert {"bin/tool", "etc/group", "etc/passwd", "opt/x"} == files
        assert "newer" == (tmp_path / "root/etc/group").read_text()


def test_values_that_an_image_gives_can_be_sent(look: Callable[..., Image]) -> None:
    """Entries, packages and diffs are values: pickles carry them."""
    image = look("1")
    for value in (image.ls(), image.stat("/etc"), image.diff(image), image.manifest, image.config):
        assert value == pickle.loads(pickle.dumps(value))  # noqa: S301 - our own
    assert isinstance(image.manifest, Manifest)
