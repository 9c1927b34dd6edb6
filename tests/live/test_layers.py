"""Files of images that other tools made, read by ranges, beside what umoci unpacks of the same images."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inside import REDIS, Log, run, skopeo

from distsdk import Descriptor, Digest, connect
from distsdk.layers.cache import Cache
from distsdk.layers.layer import LayerFiles
from distsdk.layers.member import Kind
from distsdk.layers.merged import Overlay
from distsdk.layers.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from distsdk.layers.merged import Entry

    Convert: TypeAlias = Callable[[Path, str, list[str]], Path]

PUSH = "localhost:5000"
#: nginx serves the same from files, with ranges, and logs the bytes.
HOST = "files.example"
SOURCE = f"docker://{REDIS}:7-oci"

#: What ctr-remote adds to a layer: its table lists the first, and not itself.
LANDMARK, TABLE = "/.no.prefetch.landmark", "/stargz.index.json"

CONTAINERD = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{folder}/socket"
"""


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A folder for the images; with a short name, since a socket is in it."""
    with tempfile.TemporaryDirectory(prefix="l") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def convert(work: Path) -> Iterator[Convert]:
    """Give a function that lets ctr-remote convert the image in a layout, and returns the layout it makes."""
    missing = [tool for tool in ("containerd", "ctr", "ctr-remote") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: containerd, stargz-snapshotter)")
    folder = work / "containerd"
    folder.mkdir()
    config, socket = folder / "config.toml", folder / "socket"
    config.write_text(CONTAINERD.format(folder=folder))
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
            assert daemon.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)

        def converted(layout: Path, name: str, options: list[str]) -> Path:
            before, after = f"x/{layout.name}:image", f"x/{name}:image"
            archive, made = work / f"{name}.tar", work / name
            subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
            at = ["-a", str(socket), "images"]
            for command in (
                ["ctr", *at, "import", "--base-name", f"x/{layout.name}", "--no-unpack", str(archive)],
                ["ctr-remote", *at, "convert", "--oci", *options, before, after],
                ["ctr-remote", *at, "export", str(archive), after],
            ):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            made.mkdir()
            subprocess.run(["tar", "-C", made, "-xf", archive], check=True)
            return made

        yield converted
    finally:
        daemon.terminate()
        daemon.wait(60)


@pytest.fixture(scope="module")
def original(work: Path) -> Path:
    """The image of the stack, in a layout."""
    layout = work / "original"
    skopeo("copy", "--quiet", "--insecure-policy", SOURCE, f"oci:{layout}:image")
    return layout


def recompressed(layout: Path, name: str, kind: str, *more: str) -> Path:
    """Let skopeo compress the layers of an image anew, and return the layout with what comes out."""
    made = layout.with_name(name)
    options = ["--dest-compress", "--dest-compress-format", kind, *more]
    skopeo("copy", "--quiet", "--insecure-policy", *options, f"oci:{layout}:image", f"oci:{made}:image")
    return made


def push(layout: Path, repository: str) -> None:
    """Let skopeo push the image in a layout as it is."""
    target = f"docker://{PUSH}/{repository}:image"
    options = ["--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    skopeo("copy", *options, f"oci:{layout}:{name_in(layout)}", target)


def name_in(layout: Path) -> str:
    """Return the name of the one image in a layout."""
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    name: str = entry["annotations"]["org.opencontainers.image.ref.name"]
    return name


def open_image(repository: str, **options: Any) -> tuple[Overlay, list[LayerFiles]]:  # noqa: ANN401
    """Return an image's merged tree, and its layers."""
    remote = connect(f"{HOST}/{repository}")
    manifest = remote.fetch("image").json()
    config = remote.fetch(Descriptor.from_fields(manifest["config"])).json()
    layers = []
    for fields, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        descriptor = Descriptor.from_fields(fields)
        layers.append(LayerFiles(remote.fetch(descriptor), descriptor, diff_id=Digest.parse(diff_id), **options))
    return Overlay(layers), layers


def unpacked(layout: Path) -> dict[str, dict[str, object]]:
    """Return what umoci unpacks of the image in a layout."""
    bundle = layout.with_name(f"{layout.name}-bundle")
    command = ["umoci", "unpack", "--image", f"{layout}:{name_in(layout)}", str(bundle)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return on_disk(bundle / "rootfs")


@pytest.fixture(scope="module")
def original_tree(original: Path) -> dict[str, dict[str, object]]:
    """What umoci unpacks of the image of the stack."""
    return unpacked(original)


def on_disk(root: Path) -> dict[str, dict[str, object]]:
    """Return type, mode, owner, size, digest, link, device, attributes and time of all that is in a directory."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        entry: dict[str, object] = {
            "type": stat.S_IFMT(about.st_mode),
            "owner": (about.st_uid, about.st_gid),
            "xattrs": {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
        }
        if stat.S_ISLNK(about.st_mode):
            entry["link"] = os.readlink(path)  # noqa: PTH115 - which leaves it as it is
        else:
            entry["mode"] = stat.S_IMODE(about.st_mode)
        if not stat.S_ISDIR(about.st_mode):
            entry["time"] = int(about.st_mtime)
        if stat.S_ISCHR(about.st_mode):
            entry["device"] = os.major(about.st_rdev), os.minor(about.st_rdev)
        if stat.S_ISREG(about.st_mode):
            entry |= {"size": about.st_size, "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
        found[f"/{path.relative_to(root)}"] = entry
    return found


TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
}


def in_image(tree: Overlay, trust: str) -> dict[str, dict[str, object]]:
    """Return the same of an image; every file is read, and its bytes are as trusted as they should be."""

    def read(item: Entry) -> str:
        with tree.open(item.path) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
            assert trust == file.trust
        return digest

    return in_tree(tree, read)


def in_tree(tree: Overlay, digest: Callable[[Entry], str]) -> dict[str, dict[str, object]]:
    """Return the same of an image, and the digests of files that a function returns."""
    found: dict[str, dict[str, object]] = {}
    for item in tree.walk():
        member = item.member
        entry: dict[str, object] = {
            "type": TYPES[member.kind],
            "owner": (member.uid, member.gid),
            "xattrs": {os.fsdecode(name): value for name, value in member.xattrs.items()},
        }
        if member.kind is Kind.SYMLINK:
            entry["link"] = os.fsdecode(member.link)
        else:
            entry["mode"] = member.mode
        if member.kind is not Kind.FOLDER:
            entry["time"] = member.mtime // 10**9
        if member.kind is Kind.CHARACTER_DEVICE:
            entry["device"] = member.device
        if member.kind is Kind.FILE:
            entry |= {"size": member.size, "digest": digest(item)}
        found[item.path] = entry
    return found


def sent(log: Log) -> int:
    """Return the bytes of blobs that nginx has sent."""
    time.sleep(0.3)  # lines are written a moment after the answer
    return sum(line["bytes"] for line in log.entries(HOST, "/blobs/"))


# Each format beside umoci


def test_an_ordinary_image(
    original: Path, original_tree: dict[str, dict[str, object]], tmp_path: Path, log: Log
) -> None:
    """A gzip layer of umoci's: one pass over each, then the same from the index alone; all as umoci unpacks it."""
    push(original, "test/gzip")
    cache = Cache(tmp_path / "cache")
    tree, layers = open_image("test/gzip", cache=cache)
    assert {"pass"} == {layer.source for layer in layers}
    assert original_tree == in_image(tree, "chunk-verified")
    before = sent(log)
    again, layers = open_image("test/gzip", cache=cache)
    assert (list(tree.walk()), {"index"}) == (list(again.walk()), {layer.source for layer in layers})
    assert sent(log) - before < 20_000  # the config
    assert {"verified"} == {layer.trust for layer in layers}


def test_estargz_of_ctr_remote(original: Path, convert: Convert, log: Log) -> None:
    """A listing costs footers and tables; the tree is the one that umoci unpacks of the converted image."""
    layout = convert(original, "estargz", ["--estargz", "--estargz-chunk-size", "100000"])
    push(layout, "test/estargz")
    expected = unpacked(layout)
    assert expected.pop(TABLE)
    tree, layers = open_image("test/estargz", strict=True)
    assert {"toc"} == {layer.source for layer in layers}
    before, tables = sent(log), sum(layer.cost for layer in layers)
    paths = {entry.path for entry in tree.walk()}
    assert tables == sent(log) - before < sum(layer.descriptor.size for layer in layers) / 20
    assert set(expected) == paths
    assert expected == in_image(tree, "chunk-verified")


def test_zstd_chunked_of_skopeo(original: Path, original_tree: dict[str, dict[str, object]], log: Log) -> None:
    """As Debian's skopeo 1.9 writes it; the tree is that of the image before."""
    push(recompressed(original, "chunked", "zstd:chunked"), "test/chunked")
    tree, layers = open_image("test/chunked", strict=True)
    before = sent(log)
    assert {"toc"} == {layer.source for layer in layers}
    paths = {entry.path for entry in tree.walk()}
    assert 0 < sent(log) - before < sum(layer.descriptor.size for layer in layers) / 20
    assert set(original_tree) == paths
    assert original_tree == in_image(tree, "chunk-verified")


def test_zstd_of_skopeo(original: Path, original_tree: dict[str, dict[str, object]], tmp_path: Path, log: Log) -> None:
    """One frame: copied in the pass, so that no byte is asked for twice."""
    push(recompressed(original, "zstd", "zstd"), "test/zstd")
    cache = Cache(tmp_path / "cache")
    tree, layers = open_image("test/zstd", cache=cache)
    before = sent(log)
    assert original_tree == in_image(tree, "chunk-verified")
    total = sum(layer.descriptor.size for layer in layers)
    assert total <= sent(log) - before <= total + 72 * len(layers)
    again, _ = open_image("test/zstd", cache=cache)
    before = sent(log)
    assert original_tree == in_image(again, "chunk-verified")
    assert before == sent(log)


def test_zstd_chunked_of_ctr_remote(
    original: Path, original_tree: dict[str, dict[str, object]], convert: Convert, tmp_path: Path
) -> None:
    """Its table is eStargz's, in zstd; it lists what the image had before, and so it is unpacked: it lacks its end."""
    layout = convert(original, "chunked-remote", ["--zstdchunked"])
    push(layout, "test/chunked-remote")
    tree, layers = open_image("test/chunked-remote", strict=True)
    assert {"toc"} == {layer.source for layer in layers}
    found = in_image(tree, "chunk-verified")
    assert found.pop(LANDMARK)
    assert original_tree == found
    config = json.loads(skopeo("inspect", "--config", f"oci:{layout}:{name_in(layout)}"))
    blobs = [layer.blob for layer in layers]
    unpack(blobs, tmp_path / "root", diff_ids=[Digest.parse(text) for text in config["rootfs"]["diff_ids"]])
    found = on_disk(tmp_path / "root")
    assert found.pop(LANDMARK)
    found.pop(TABLE, None)
    assert original_tree == found


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are compared")
@pytest.mark.parametrize("kind", ["estargz", "zstd:chunked"])
def test_a_debian_system(kind: str, work: Path, convert: Convert, log: Log) -> None:
    """Its table alone, of ctr-remote's or skopeo's making, tells all that tar unpacks, digests and devices included."""
    archive = Path(os.environ["LIVE_CACHE"], "debian.tar")
    if not archive.exists():
        pytest.skip("needs mmdebstrap where the live stack is built")
    layout, root = work / "debian", work / "debian-root"
    if not layout.exists():
        for command in (["init", "--layout", layout], ["new", "--image", f"{layout}:image"]):
            subprocess.run(["umoci", *command], check=True)
        subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:image", archive], check=True)
        root.mkdir()
        options = ["--xattrs", "--xattrs-include=*", "--numeric-owner"]
        subprocess.run(["tar", *options, "-xpf", archive, "-C", root], check=True)
    if kind == "estargz":
        made = convert(layout, "debian-estargz", ["--estargz", "--estargz-compression-level", "1"])
    else:
        made = recompressed(layout, "debian-chunked", kind, "--dest-compress-level=1")
    repository = f"test/{made.name}"
    push(made, repository)
    tree, [layer] = open_image(repository, strict=True)
    before = sent(log)

    def told(item: Entry) -> str:
        found = layer.digest(item.member)
        return found.hex if found else hashlib.sha256().hexdigest()  # of an empty file

    listed, expected = in_tree(tree, told), on_disk(root)
    assert layer.cost == 0
    assert sent(log) - before < layer.descriptor.size / 20
    assert len(expected) > 8500
    listed.pop(LANDMARK, None)
    assert expected == listed


def test_one_file_of_a_big_image(work: Path, convert: Convert, log: Log, tmp_path: Path) -> None:
    """Of 100 MB and more: at most two hundredths of its bytes, as nginx counts them; a listing its tables alone."""
    source = random.Random(11)
    root, layout = work / "big-root", work / "big"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=big\n")
    for number in range(300):
        (root / f"opt/{number}").mkdir(parents=True)
        for name in range(10):
            (root / f"opt/{number}/{name}").write_bytes(source.randbytes(36_000))
    archive = work / "big-layer.tar"
    subprocess.run(["tar", "-C", root, "--sort=name", "-cf", archive, "."], check=True)
    for command in (["init", "--layout", layout], ["new", "--image", f"{layout}:image"]):
        subprocess.run(["umoci", *command], check=True)
    subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:image", archive], check=True)
    push(convert(layout, "big-estargz", ["--estargz"]), "test/big")
    tree, [layer] = open_image("test/big", strict=True)
    assert layer.descriptor.size >= 100_000_000
    with tree.open("/etc/os-release") as file:
        assert b"ID=big\n" == file.read()
    assert sent(log) <= layer.descriptor.size / 50
    before = sent(log)
    assert 3302 == sum(entry.path.startswith(("/opt", "/etc")) for entry in tree.walk()) - 1
    assert before == sent(log)
    asked = Log()
    done = run("cat", f"{HOST}/test/big:image", "/etc/os-release", XDG_CACHE_HOME=str(tmp_path))
    assert (0, b"ID=big\n", b"") == (done.returncode, done.stdout, done.stderr)
    assert 0 < sent(asked) <= layer.descriptor.size / 50
