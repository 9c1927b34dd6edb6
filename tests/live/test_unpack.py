"""Images that other tools made, unpacked, beside what umoci and tar make of them: every entry, all of its metadata."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from inside import REDIS, document, skopeo

import distsdk
from distsdk import Blob, Descriptor, Digest, DigestMismatch, Store, connect
from distsdk.layers.unpack import apply, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners are compared")

#: Of each entry what find knows: path, type, mode, owner, size (but of folders), names, target, time.
PRINTED = "%P\t%y %m %U:%G {size} %l %T@\n"


def entries(folder: Path) -> dict[str, str]:
    """Return a line about each entry of a folder, by its path: find's, with digest, device and attributes."""
    command: list[str | Path] = ["find", folder]
    command += ["(", "-type", "d", "-printf", PRINTED.format(size="-"), ")"]
    command += ["-o", "-printf", PRINTED.format(size="%s %n")]
    names = subprocess.run(["find", folder, "-type", "f", "-print0"], stdout=subprocess.PIPE, check=True).stdout
    sums = subprocess.run(["xargs", "-0r", "sha256sum", "-z"], input=names, stdout=subprocess.PIPE, check=True).stdout
    digests = {os.fsdecode(line[66:]): line[:64].decode() for line in sums.split(b"\0")}
    found = {}
    for line in subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines():
        name, _, said = line.partition("\t")
        path = folder / name
        said += digests.get(str(path), "")
        about = path.lstat()
        if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
            said += f" {os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"
        for key in os.listxattr(path, follow_symlinks=False):
            said += f" {key}={os.getxattr(path, key, follow_symlinks=False)!r}"
        found[name] = said
    return found


def image(layout: Path, tag: str) -> tuple[list[dict[str, Any]], list[Digest]]:
    """Return the layers of an image in a layout, and the diffIDs its config names."""

    def read(digest: str) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        return parsed

    index = json.loads((layout / "index.json").read_text())
    names = "org.opencontainers.image.ref.name"
    [manifest] = [entry for entry in index["manifests"] if entry["annotations"][names] == tag]
    found = read(manifest["digest"])
    return found["layers"], [Digest.parse(text) for text in read(found["config"]["digest"])["rootfs"]["diff_ids"]]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """The image as skopeo gets it, once as it is and once with zstd."""
    path = tmp_path / "layout"
    plain = tmp_path / "plain"
    for source, target, *options in (
        (f"docker://{REDIS}:7-oci", f"oci:{path}:gzip"),
        (f"docker://{REDIS}:7-oci", f"dir:{plain}", "--dest-decompress"),
        (f"dir:{plain}", f"oci:{path}:zstd", "--dest-compress-format=zstd"),
    ):
        skopeo("copy", "--quiet", "--insecure-policy", *options, source, target)
    return path


@pytest.fixture
def by_umoci(layout: Path, tmp_path: Path) -> dict[str, str]:
    """What umoci makes of it."""
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:gzip", tmp_path / "umoci"], check=True)
    found = entries(tmp_path / "umoci")
    assert len(found) > 100
    return found


def from_registry(layers: list[dict[str, Any]]) -> list[Blob]:
    """Return the layers as the registry has them."""
    remote = connect(REDIS)
    return [remote.fetch(Descriptor.from_fields(fields)) for fields in layers]


def from_layout(layout: Path, layers: list[dict[str, Any]]) -> list[Blob]:
    """Return the layers as they are in a layout."""
    store = Store(layout)
    return [store.blob(fields["digest"], media_type=fields["mediaType"]) for fields in layers]


def test_an_image_of_the_registry(by_umoci: dict[str, str], layout: Path, tmp_path: Path) -> None:
    """Six layers with whiteouts, an opaque folder, hard links and replaced files, as they come, are umoci's tree."""
    layers = document("7-oci")["layers"]
    _, diff_ids = image(layout, "gzip")
    result = unpack(from_registry(layers), tmp_path / "ours", diff_ids=diff_ids)
    assert (tuple(diff_ids), True) == (result.diff_ids, result.owners)
    assert result.removed > 3
    assert by_umoci == entries(tmp_path / "ours")


@pytest.mark.parametrize("tag", ["gzip", "zstd"])
def test_an_image_of_a_layout(tag: str, by_umoci: dict[str, str], layout: Path, tmp_path: Path) -> None:
    """However its layers are packed, and layer by layer as well as all at once."""
    layers, diff_ids = image(layout, tag)
    assert all(fields["mediaType"].endswith(tag) for fields in layers)
    blobs = from_layout(layout, layers)
    unpack(blobs, tmp_path / "ours", diff_ids=diff_ids)
    for blob, diff_id in zip(blobs, diff_ids, strict=True):
        apply(tmp_path / "one by one", blob, diff_id=diff_id)
    assert by_umoci == entries(tmp_path / "ours")
    assert by_umoci == entries(tmp_path / "one by one")


def test_a_layer_as_tar(layout: Path, tmp_path: Path) -> None:
    """The lowest layer, which removes nothing, is what tar extracts."""
    layers, _ = image(layout, "gzip")
    data = (layout / "blobs" / layers[0]["digest"].replace(":", "/")).read_bytes()
    (tmp_path / "tar").mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "-xpzf", "-", "-C", tmp_path / "tar"], input=data, check=True
    )
    apply(tmp_path / "ours", data)
    tree = entries(tmp_path / "tar")
    # No entry says anything about the root itself.
    del tree[""]
    assert tree == {name: said for name, said in entries(tmp_path / "ours").items() if name}


def changed(bundle: Path) -> None:
    """Change an unpacked image in ways that a container does."""
    root = bundle / "rootfs"
    shutil.rmtree(root / "usr/share")
    (root / "usr/share").write_text("a file in place of a folder")
    (root / "entrypoint.sh").unlink()
    (root / "entrypoint.sh").mkdir()
    (root / "entrypoint.sh/inside").write_text("a folder in place of a link")
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").symlink_to("../data")
    (root / "bin/busybox").chmod(0o4711)
    (root / "new").mkdir()  # not in /data: that is a volume, which umoci leaves out
    os.chown(root / "new", 1234, 5678)
    (root / "new/hard").hardlink_to(root / "bin/busybox")
    os.mkfifo(root / "new/pipe", 0o604)
    with (root / "new/sparse").open("wb") as sparse:
        sparse.seek(1 << 22)
        sparse.write(b"end")
    os.setxattr(root / "new/sparse", "user.distsdk", b"\0value")
    (root / ("n" * 200)).touch()


def test_what_umoci_repacks(layout: Path, tmp_path: Path) -> None:
    """A container's changes, made a layer by umoci, are the same tree again as umoci unpacks."""
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:gzip", bundle], check=True)
    changed(bundle)
    subprocess.run(["umoci", "repack", "--image", f"{layout}:changed", bundle], check=True)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:changed", tmp_path / "umoci"], check=True)
    layers, diff_ids = image(layout, "changed")
    unpack(from_layout(layout, layers), tmp_path / "ours", diff_ids=diff_ids)
    assert entries(tmp_path / "umoci") == entries(tmp_path / "ours")
    shown = entries(tmp_path / "ours")
    assert "user.distsdk=b'\\x00value'" in shown["new/sparse"]
    assert shown["usr/share"].startswith("f ")


def test_what_umoci_inserts(layout: Path, tmp_path: Path) -> None:
    """Layers without the end that archives have: the image's digests vouch for them."""
    (tmp_path / "file").write_text("no multiple of 512 bytes")
    command: list[str | Path] = ["umoci", "insert", "--image", f"{layout}:gzip", "--tag", "inserted"]
    subprocess.run([*command, tmp_path / "file", "/opt/file"], check=True)
    subprocess.run(["umoci", "insert", "--image", f"{layout}:inserted", "--whiteout", "/usr/share"], check=True)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:inserted", tmp_path / "umoci"], check=True)
    layers, diff_ids = image(layout, "inserted")
    unpack(from_layout(layout, layers), tmp_path / "ours", diff_ids=diff_ids)
    ours, theirs = entries(tmp_path / "ours"), entries(tmp_path / "umoci")
    # Nobody says when these were changed.
    for name in ("", "opt", "usr"):
        assert ours.pop(name).split()[:3] == theirs.pop(name).split()[:3]
    assert theirs == ours
    assert "opt/file" in ours
    assert "usr/share" not in ours


# A whole system


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian as mmdebstrap makes it, an image of one layer by umoci."""
    archive = Path(os.environ["LIVE_CACHE"], "debian.tar")
    if not archive.exists():
        pytest.skip("needs mmdebstrap where the live stack is built")
    path = tmp_path_factory.mktemp("debian") / "layout"
    subprocess.run(["umoci", "init", "--layout", path], check=True)
    subprocess.run(["umoci", "new", "--image", f"{path}:debian"], check=True)
    subprocess.run(["umoci", "raw", "add-layer", "--image", f"{path}:debian", archive], check=True)
    return path


@pytest.fixture(scope="module")
def debian_by_tar(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What tar makes of it."""
    layers, _ = image(debian, "debian")
    root = tmp_path_factory.mktemp("tar")
    command = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpzf"]
    subprocess.run(
        [*command, debian / "blobs" / layers[0]["digest"].replace(":", "/"), "-C", root],
        check=True,
    )
    found = entries(root)
    assert len(found) > 8500
    assert found["dev/null"].endswith(" 1:3")
    return found


@pytest.mark.parametrize("form", ["gzip", "zstd", "docker-archive"])
def test_a_debian_system(form: str, debian: Path, debian_by_tar: dict[str, str], tmp_path: Path) -> None:
    """All of it, device nodes included, as tar makes it, in whatever skopeo has made of the image."""
    name = f"{debian}:debian"
    if form == "docker-archive":
        name = str(tmp_path / "archive.tar")
        skopeo("copy", "--quiet", "--insecure-policy", f"oci:{debian}:debian", f"docker-archive:{name}:debian:12")
    elif form != "gzip":
        name = f"{tmp_path / 'layout'}:debian"
        compress = ["--dest-compress", "--dest-compress-format", form]
        skopeo("copy", "--quiet", "--insecure-policy", *compress, f"oci:{debian}:debian", f"oci:{name}")
    result = distsdk.image(name).unpack(tmp_path / "ours", devices=True)
    assert (0, len(debian_by_tar)) == (result.devices_skipped, result.entries)
    assert debian_by_tar == entries(tmp_path / "ours")


def test_a_debian_system_as_umoci(debian: Path, debian_by_tar: dict[str, str], tmp_path: Path) -> None:
    """What umoci makes of it is the same again."""
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{debian}:debian", tmp_path / "umoci"], check=True)
    assert debian_by_tar == entries(tmp_path / "umoci")


# Buildah

BUILT = """\
set -e
rm -r /usr/share/doc /etc/redis
mkdir -p /etc/redis /opt/a
echo new > /etc/redis/redis.conf
chmod 4711 /bin/busybox
ln /bin/busybox /opt/a/hard
ln -s ../a /opt/a/link
mkdir -m 1777 /opt/sticky
"""


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd:chunked"])
def test_an_image_of_buildah(form: str, layout: Path, tmp_path: Path) -> None:
    """Layers that a container's changes became in its storage: whiteouts, opaque folders, attributes."""
    if shutil.which("buildah") is None:
        pytest.skip("needs buildah")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    places: list[str | Path] = ["--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]

    def buildah(command: str, *arguments: str | Path) -> str:
        argv: list[str | Path] = ["buildah", *places, command, *arguments]
        env = os.environ | {"BUILDAH_ISOLATION": "chroot"}
        return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True, env=env).stdout.strip()

    container = buildah("from", "--signature-policy", policy, f"oci:{layout}:gzip")
    buildah("run", container, "--", "sh", "-c", BUILT)
    mounted = Path(buildah("mount", container))
    os.chown(mounted / "opt/a", 12, 34)
    os.setxattr(mounted / "opt/a", "user.distsdk", b"value")
    os.mkfifo(mounted / "opt/pipe")
    buildah("umount", container)
    buildah("config", "--label", "by=buildah", container)
    made = tmp_path / "made"
    buildah(
        "commit", "--signature-policy", policy, "--disable-compression=false", "--quiet", container, f"oci:{made}:gzip"
    )
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{made}:gzip", tmp_path / "umoci"], check=True)
    if form != "gzip":
        compress: list[str | Path] = ["--signature-policy", policy, "--compression-format", form]
        built = buildah("commit", "--signature-policy", policy, "--quiet", container, "localhost/built")
        buildah("push", *compress, "--quiet", built, f"oci:{made}:{form.replace(':', '-')}")
    layers, diff_ids = image(made, form.replace(":", "-"))
    assert layers[-1]["mediaType"].endswith(form.partition(":")[0])
    assert ("annotations" in layers[-1]) is (form == "zstd:chunked")
    if form == "zstd:chunked":
        # What this version writes lacks the zeros that tar fills up its last record with: a layer of the image below
        # is another archive than its config says.
        with pytest.raises(DigestMismatch, match="diffID of layer 6 is wrong"):
            unpack(from_layout(made, layers), tmp_path / "refused", diff_ids=diff_ids)
        unpack(from_layout(made, layers), tmp_path / "ours")
    else:
        unpack(from_layout(made, layers), tmp_path / "ours", diff_ids=diff_ids)
    found = entries(tmp_path / "ours")
    assert entries(tmp_path / "umoci") == found
    assert "user.distsdk=b'value'" in found["opt/a"]
    assert found["opt/pipe"].startswith("p ")
    assert {name for name in found if name.startswith("etc/redis")} == {"etc/redis", "etc/redis/redis.conf"}
    assert not any(name.startswith("usr/share/doc") for name in found)


def test_order_within_a_layer(layout: Path, tmp_path: Path) -> None:
    """Whiteouts before and after what their own layer brings, as tar orders them, are the same as umoci's."""
    layers, diff_ids = image(layout, "gzip")
    for number in range(2):
        tag = f"order{number}"
        source = tmp_path / tag
        make(source)
        names = sorted((str(path.relative_to(source)) for path in source.rglob("*")), reverse=bool(number))
        archive = tmp_path / f"{tag}.tar"
        subprocess.run(["tar", "-c", "--no-recursion", "-f", archive, "-C", source, *names], check=True)
        subprocess.run(["umoci", "tag", "--image", f"{layout}:gzip", tag], check=True)
        subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:{tag}", archive], check=True)
        subprocess.run(
            ["umoci", "raw", "unpack", "--image", f"{layout}:{tag}", tmp_path / f"umoci{number}"], check=True
        )
        unpack(
            [*from_layout(layout, layers), archive],
            tmp_path / f"ours{number}",
            diff_ids=[*diff_ids, image(layout, tag)[1][-1]],
        )
        ours, theirs = entries(tmp_path / f"ours{number}"), entries(tmp_path / f"umoci{number}")
        # A whiteout that comes later changes this folder; its entry says of when it is, and umoci does not set it back.
        assert ours.pop("usr/bin").startswith("d 755 0:0 ")
        assert theirs.pop("usr/bin").startswith("d 755 0:0 ")
        assert theirs == ours


def make(source: Path) -> None:
    """Make a layer's files with whiteouts among them."""
    for name in (
        "etc/.wh..wh..opq",
        "etc/new",
        "usr/.wh.bin",
        "usr/bin/mine",
        "bin/.wh.ls",
        "bin/ls",
        ".wh.entrypoint.sh",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name if ".wh." not in name else "")
