"""Looking inside redis, held against what skopeo, umoci, du, diff, dpkg and rpm say of the same image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from inside import REDIS, Log, document, run, shell, skopeo

import distsdk
from distsdk import Cache

IMAGE = f"{REDIS}:7-oci"
CDN = "production.cloudflare.docker.com"


def umoci(*arguments: str | Path) -> None:
    """Run umoci."""
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)


def with_file(layout: Path, tag: str, source: Path, path: str) -> str:
    """Return the name of the image with a file more, in a layer of its own, by umoci."""
    bundle = layout.parent / tag
    umoci("unpack", "--image", f"{layout}:7", bundle)
    target = bundle / "rootfs" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    umoci("repack", "--image", f"{layout}:{tag}", bundle)
    return f"{layout}:{tag}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the registry's image, by skopeo: `7`."""
    folder = tmp_path_factory.mktemp("inside") / "layout"
    skopeo("copy", "--quiet", "--insecure-policy", f"docker://{IMAGE}", f"oci:{folder}:7")
    return folder


@pytest.fixture(scope="module")
def by_umoci(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files, unpacked by umoci."""
    bundle = tmp_path_factory.mktemp("umoci") / "bundle"
    umoci("unpack", "--image", f"{layout}:7", bundle)
    return bundle / "rootfs"


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty store and an empty cache, of the test's own."""
    monkeypatch.setenv("DISTSDK_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path


def done(*arguments: str | Path) -> str:
    """Return what a command that succeeds writes; that it reads layers it may say."""
    ended = run("--quiet", *arguments)
    assert (0, b"") == (ended.returncode, ended.stderr)
    return ended.stdout.decode()


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is in a directory: kind, mode, owner, time, size, content or link, and what are names of one file."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status, name = path.lstat(), f"/{path.relative_to(root)}"
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        same = first.setdefault(status.st_ino, name)
        found[name] = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), size, content, same)
    return found


# Files


def test_unpack_makes_what_umoci_makes(by_umoci: Path, places: Path) -> None:
    """Entry by entry: kind, mode, owner, time, size, content, link, and hard links."""
    assert 0 == run("unpack", IMAGE, places / "root").returncode
    expected = tree(by_umoci)
    assert len(expected) > 100
    assert expected == tree(places / "root")


def test_layers_applied_one_by_one_make_the_same(by_umoci: Path, places: Path) -> None:
    """Each through a pipe, from fetch to apply, held against its diffID."""
    config = json.loads(done("inspect", "--json", IMAGE))
    layers = [layer["digest"] for layer in config["manifest"]["layers"]]
    for digest, diff_id in zip(layers, config["config"]["rootfs"]["diff_ids"], strict=True):
        shell(f"distsdk fetch {REDIS} {digest} | distsdk apply --diff-id {diff_id} {places}/root")
    assert tree(by_umoci) == tree(places / "root")


def test_a_listing_is_what_is_unpacked(by_umoci: Path) -> None:
    """`ls -R` names what umoci unpacked, with its modes, owners, times, sizes and links; `cat` writes the files."""
    listed = {fields["path"]: fields for fields in map(json.loads, done("ls", "-R", "--json", IMAGE).splitlines())}
    expected = tree(by_umoci)
    assert expected.keys() == listed.keys()
    kinds = {"file": stat.S_IFREG, "folder": stat.S_IFDIR, "symlink": stat.S_IFLNK}
    for path, (mode, uid, gid, _, size, content, _) in expected.items():
        fields = listed[path]
        assert mode == kinds[fields["type"]] | int(fields["mode"], 8)
        link = fields.get("link", "")
        assert (uid, gid, size) == (fields["uid"], fields["gid"], len(link) or fields["size"])
        assert not link or link == content
    sample = [path for path, fields in listed.items() if fields["type"] == "file" and fields["size"]][::9]
    image = distsdk.image(IMAGE)
    for path in sample:
        assert expected[path][5] == hashlib.sha256(image.read_bytes(path)).hexdigest()
    assert (by_umoci / "etc/redis/redis.conf").read_bytes() == run("cat", IMAGE, "/etc/redis/redis.conf").stdout


def test_a_file_takes_the_layers_that_decide(log: Log, by_umoci: Path) -> None:
    """What a late step wrote is read without the layers below; a second process asks for the part it lies in alone."""
    layers = document("7-oci")["layers"]
    number = distsdk.image(IMAGE).which_layer("/etc/redis/redis.conf").number
    asked = " ".join(line["uri"] for line in log.entries(CDN))
    assert number >= 3
    assert [] == [layer for layer in layers[:number] if layer["digest"].partition(":")[2] in asked]
    again = Log()
    assert b"bind" in run("--quiet", "cat", IMAGE, "/etc/redis/redis.conf").stdout
    [config, part] = again.entries(CDN)
    assert config["bytes"] == document("7-oci")["config"]["size"]
    assert 0 < part["bytes"] <= layers[number]["size"]


def test_du_counts_what_du_counts(by_umoci: Path) -> None:
    """Bytes by folder as du has them, whose folders have a size of their own; a hard link counts once in all."""
    found = json.loads(done("du", "-a", "--json", IMAGE))
    sizes = {}
    for folder in ("", "usr", "usr/bin", "bin", "etc"):
        place = by_umoci / folder
        told = subprocess.run(["du", "-sb", place], check=True, capture_output=True, text=True).stdout
        # du counts folders and symbolic links too, which are no content.
        find: list[str | Path] = ["find", place, "(", "-type", "d", "-o", "-type", "l", ")", "-printf", "%s\n"]
        others = subprocess.run(find, check=True, capture_output=True, text=True).stdout
        sizes[f"/{folder}"] = int(told.split()[0]) - sum(map(int, others.split()))
    assert sizes == {path: found["folders"][path] for path in sizes}
    assert sizes["/"] == found["content"]


def test_what_is_wasted_is_what_umoci_does_not_unpack(layout: Path, places: Path) -> None:
    """All bytes of files in all layers, as tar lists them, less those that are seen."""
    blobs = layout / "blobs/sha256"
    total = 0
    for layer in document("7-oci")["layers"]:
        listed = subprocess.run(
            ["tar", "tvzf", blobs / layer["digest"].partition(":")[2]], check=True, capture_output=True, text=True
        ).stdout
        total += sum(int(line.split()[2]) for line in listed.splitlines() if line.startswith("-"))
    found = json.loads(done("du", "--json", IMAGE))
    assert 0 < found["wasted"] == total - found["content"]
    assert total == sum(layer["content"] for layer in found["layers"])


# What it is


def test_inspect_agrees_with_skopeo() -> None:
    """Digest, platform, environment, labels, and layers with their sizes; read by jq."""
    theirs = json.loads(skopeo("inspect", f"docker://{IMAGE}"))
    expression = (
        "{Digest: .digest, Os: .config.os, Architecture: .config.architecture, Env: .config.config.Env,"
        " Labels: .config.config.Labels, Created: .config.created, Layers: [.manifest.layers[].digest]}"
    )
    ours = json.loads(shell(f"distsdk inspect --json {IMAGE} | jq -c '{expression}'"))
    assert {name: theirs[name] for name in ours} == ours
    assert (
        json.loads(skopeo("inspect", "--config", f"docker://{IMAGE}"))
        == json.loads(done("inspect", "--json", IMAGE))["config"]
    )


def test_what_was_pulled_is_looked_into_offline(log: Log) -> None:
    """After a pull no command asks the registry for anything."""
    assert 0 == run("--quiet", "pull", IMAGE).returncode
    before = len(log.wait_for(len(log.entries("registry-1.docker.io")), "registry-1.docker.io"))
    later = Log()
    listed = done("ls", "-R", IMAGE)
    done("inspect", IMAGE)
    done("du", IMAGE)
    assert "/usr/bin/redis-cli" in listed.splitlines()
    assert before > 0
    assert [] == later.entries("registry-1.docker.io") + later.entries(CDN)


# Differences


@pytest.fixture(scope="module")
def changed(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The image changed on disk and packed again by umoci, as `changed`; both trees, before and after."""
    bundle = tmp_path_factory.mktemp("changed") / "bundle"
    umoci("unpack", "--image", f"{layout}:7", bundle)
    root = bundle / "rootfs"
    before = bundle.with_name("before")
    subprocess.run(["cp", "-a", root, before], check=True)
    config = root / "etc/redis/redis.conf"
    config.write_bytes(config.read_bytes().replace(b"port 6379", b"port 6380"))  # of the same size
    (root / "etc/issue").write_text("another size\n")
    (root / "etc/debian_version").chmod(0o600)
    os.lchown(root / "etc/host.conf", 7, 7)
    shutil.rmtree(root / "usr/share/base-files")
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").symlink_to("issue")
    (root / "srv/new").mkdir(parents=True)
    (root / "srv/new/file").write_text("new")
    os.utime(root / "bin/busybox", (1, 1))  # only its time
    umoci("repack", "--image", f"{layout}:changed", bundle)
    umoci("config", "--image", f"{layout}:changed", "--config.env", "REDIS_VERSION=8", "--config.user", "redis")
    return before, root


def test_a_diff_is_what_differs_on_disk(layout: Path, changed: tuple[Path, Path]) -> None:
    """All that was changed, in the ways it was, and nothing else; `diff -r` finds the same contents."""
    before, after = (tree(root) for root in changed)
    expected: dict[str, tuple[str, ...]] = {}
    for path in before.keys() | after.keys():
        a, b = before.get(path), after.get(path)
        if a is None or b is None:
            expected[path] = ("added" if a is None else "removed",)
        elif how := [
            name
            for name, differs in (
                ("content", not stat.S_ISLNK(a[0]) and a[5] != b[5]),
                ("link", stat.S_ISLNK(a[0]) and a[5] != b[5]),
                ("mode", a[0] != b[0]),
                ("owner", a[1:3] != b[1:3]),
            )
            if differs
        ]:
            expected[path] = ("changed", *how)
    found = json.loads(done("diff", "--json", f"{layout}:7", f"{layout}:changed"))
    assert expected == {change["path"]: (change["what"], *change["how"]) for change in found["files"]}
    assert {("content",), ("mode",), ("owner",), ("link",)} <= {how[1:] for how in expected.values()}
    told = subprocess.run(
        ["diff", "-rq", "--no-dereference", *changed], capture_output=True, text=True, check=False
    ).stdout
    differ = {line.split(" and ")[0].partition(str(changed[0]))[2] for line in told.splitlines() if " differ" in line}
    assert {path for path, how in expected.items() if {"content", "link"} & {*how}} == differ
    settings = {change["name"]: (change["before"], change["after"]) for change in found["settings"]}
    assert ("7.0.15", "8") == settings["Env.REDIS_VERSION"]
    assert (None, "redis") == settings["User"]
    assert (6, 0, 1) == tuple(
        part if isinstance(part, int) else len(part)
        for part in (found["layers"][n] for n in ("shared", "before", "after"))
    )


def test_the_same_image_in_other_documents_does_not_differ() -> None:
    """Docker's manifest and OCI's of the same layers: the configs and the files are the same."""
    ended = run("diff", f"{REDIS}:latest", IMAGE)
    assert (0, 2) == (ended.returncode, len(ended.stdout.splitlines()))
    assert b"comparing the content" not in ended.stderr


# Packages


def test_packages_are_those_of_dpkg(layout: Path, tmp_path: Path) -> None:
    """This machine's own database, in an image: the same names, versions and architectures as dpkg-query lists."""
    name = with_file(layout, "dpkg", Path("/var/lib/dpkg/status"), "var/lib/dpkg/status")
    admin = tmp_path / "dpkg"
    admin.mkdir()
    shutil.copy("/var/lib/dpkg/status", admin)
    (admin / "updates").mkdir()
    (admin / "info").mkdir()
    form = "${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n"
    told = subprocess.run(
        ["dpkg-query", f"--admindir={admin}", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split("\t") for line in told.splitlines()]
    expected = {tuple(row[:3]) for row in rows if row[3] not in {"config-files", "not-installed"}}
    found = distsdk.image(name, cache=Cache(tmp_path / "cache")).packages()
    assert len(expected) > 100
    assert expected == {(package.name, package.version, package.architecture) for package in found}
    assert {"dpkg"} == {package.manager for package in found}


SPEC = """\
Name: {name}
Version: {version}
Release: 1
{epoch}
Summary: a package
License: MIT
BuildArch: {architecture}
%description
Nothing.
%files
"""


@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpm is not installed")
def test_packages_are_those_of_rpm(layout: Path, tmp_path: Path) -> None:
    """A database that rpm made, in an image: the same as rpm lists."""
    for name, version, epoch, architecture in (
        ("one", "1.0~rc1", "Epoch: 3", "noarch"),
        ("two", "2.5", "", "x86_64"),
        ("three", "3", "Epoch: 0", "noarch"),
    ):
        spec = tmp_path / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, version=version, epoch=epoch, architecture=architecture))
        options = ("--define", f"_topdir {tmp_path}/build", "--target", architecture)
        subprocess.run(["rpmbuild", "-bb", *options, spec], check=True, capture_output=True)
    rpms = sorted((tmp_path / "build/RPMS").rglob("*.rpm"))
    assert 3 == len(rpms)
    rpm: list[str | Path] = ["rpm", "--root", tmp_path / "root", "--dbpath", "/usr/lib/sysimage/rpm"]
    (tmp_path / "root").mkdir()
    subprocess.run([*rpm, "-i", "--nodeps", "--ignorearch", *rpms], check=True, capture_output=True)
    form = "%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n"
    told = subprocess.run([*rpm, "-qa", "--qf", form], check=True, capture_output=True, text=True).stdout
    database = tmp_path / "root/usr/lib/sysimage/rpm/rpmdb.sqlite"
    name = with_file(layout, "rpm", database, "usr/lib/sysimage/rpm/rpmdb.sqlite")
    found = distsdk.image(name, cache=Cache(tmp_path / "cache")).packages()
    ours = [package for package in found if package.manager == "rpm"]
    assert {tuple(line.split("\t")) for line in told.splitlines()} == {
        (p.name, p.version, p.architecture) for p in ours
    }
    assert 3 == len(ours)
