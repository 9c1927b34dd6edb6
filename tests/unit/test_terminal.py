"""Text of a hostile image on a terminal: objects, messages and commands print no control and no bidi characters."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

import distsdk
from distsdk import Cache, Platform, Store
from distsdk.errors import DistError
from distsdk.testing import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A change of colour, a right-to-left override, a bell, a line's end.
HOSTILE = "\x1b[31m\u202e\x07\r\n"

CONFIG = {
    "os": f"linux{HOSTILE}",
    "architecture": f"amd64{HOSTILE}",
    "variant": HOSTILE,
    "created": HOSTILE,
    "author": HOSTILE,
    "config": {
        **{key: [HOSTILE] for key in ("Env", "Cmd", "Entrypoint")},
        **dict.fromkeys(("User", "WorkingDir", "StopSignal"), HOSTILE),
        "Labels": {HOSTILE: HOSTILE},
        **{key: {HOSTILE: {}} for key in ("ExposedPorts", "Volumes")},
    },
    "history": [dict.fromkeys(("created", "created_by", "comment", "author"), HOSTILE)],
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with the hostile image ``x:1``, and ``x:index``, an index that refers to it."""
    with Registry() as registry:
        image = registry.add_image("x", "1", layers=[_layer()], config=CONFIG)
        hostile = Platform(HOSTILE, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))
        entry = evolve(image, platform=hostile, annotations={HOSTILE: HOSTILE}, artifact_type=f"a/b{HOSTILE}")
        registry.add_index("x", "index", manifests=[entry])
        yield registry


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        file, link = tarfile.TarInfo(f"file{HOSTILE}"), tarfile.TarInfo("link")
        file.uname = file.gname = HOSTILE
        link.type, link.linkname = tarfile.SYMTYPE, HOSTILE
        tar.addfile(file)
        tar.addfile(link)
    return buffer.getvalue()


def _texts(value: object, where: str, depth: int = 5) -> Iterator[tuple[str, str]]:
    """Yield what `str` and `repr` make of a value, and of all that it leads to."""
    if isinstance(value, str | bytes) or not depth:
        return
    yield f"str({where})", str(value)
    yield f"repr({where})", repr(value)
    parts: dict[str, object] = {}
    if isinstance(value, dict):
        parts = {f"[{key!r}]": inner for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        parts = {f"[{number}]": inner for number, inner in enumerate(value)}
    elif type(value).__module__.startswith("distsdk"):
        names = [name for name in dir(value) if not name.startswith("_")]
        parts = {f".{name}": found for name in names if not callable(found := getattr(value, name, None))}
    for name, inner in parts.items():
        yield from _texts(inner, where + name, depth - 1)


def test_hostile_images_print_no_control_characters(registry: Registry, tmp_path: Path) -> None:
    """Printing any object of an image, or any error about it, writes printable characters only."""
    remote = distsdk.connect(registry.locator("x"))
    image = distsdk.image(f"{registry.locator('x')}:1", cache=Cache(tmp_path / "cache"))
    index = remote.index("index")
    store = Store(tmp_path / "store")
    distsdk.pull(f"{registry.locator('x')}:1", store, all_platforms=True)
    with pytest.raises(DistError) as missing:
        image.open(f"/missing{HOSTILE}")
    with pytest.raises(DistError) as unsuitable:
        index.select(Platform.parse("linux/amd64"))
    found = {
        "image": image,
        "manifest": image.manifest,
        "index": index,
        "entries": image.ls("/"),
        "diff": image.diff(image),
        "file": image.open(f"/file{HOSTILE}"),
        "plan": distsdk.pull(f"{registry.locator('x')}:1", store, all_platforms=True, plan=True),
        "store": [store, store.images()],
        "missing": missing.value,
        "unsuitable": unsuitable.value,
    }
    texts = dict(_texts(found, "found"))
    assert len(texts) > 100
    assert {} == {where: text for where, text in texts.items() if not text.isprintable()}


def test_hostile_images_have_short_reprs(registry: Registry, tmp_path: Path) -> None:
    """The repr of an image is bounded, however long its platform is."""
    registry.add_image("x", "long", config={"os": "l" * 1_000_000})
    image = distsdk.image(f"{registry.locator('x')}:long", cache=Cache(tmp_path))
    assert len(repr(image)) < 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{}:1"],
        ["du", "{}:1"],
        ["ls", "-l", "{}:1"],
        ["ls", "{}:index", "--platform", "linux/amd64"],
        ["cat", "{}:1", f"/missing{HOSTILE}"],
        ["pull", "{}:index", "--all-platforms"],
        ["tags", "{}"],
    ],
)
def test_commands_print_no_control_characters(registry: Registry, tmp_path: Path, arguments: list[str]) -> None:
    """Commands that show a hostile image, or refuse it, write printable characters to stdout and stderr."""
    x = registry.locator("x")
    done = subprocess.run(
        [sys.executable, "-m", "distsdk", "--store", tmp_path, *(word.format(x) for word in arguments)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    lines = (done.stdout + done.stderr).decode().split("\n")
    assert [] == [line for line in lines if not line.isprintable()]
