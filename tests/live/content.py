"""What the live stack serves: images of redis, made from Debian's packages by Debian's tools.

apt fetches the packages, dpkg-deb and tar unpack them, umoci makes layers and configs, skopeo pushes; mmdebstrap makes
the Debian that some tests want. This module only runs those, and writes the two documents that none of them can make:
the index of several architectures and the attestations in it. Times are clamped to `EPOCH` and bookworm's last point
release is out, so the digests stay the same, but for those of that Debian.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EPOCH = 1783728000
CREATED = "2026-07-11T00:00:00Z"  # the same moment
REPOSITORIES = ("library/redis", "private/redis")
GENUINE = Path(__file__).parent.parent / "data" / "redis-3.2.6.manifest.json"

SOURCE = "http://deb.debian.org/debian bookworm main"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BASE = ("base-files", "busybox-static")
LIBRARIES = ("libatomic1", "libjemalloc2", "liblzf1", "libssl3")
REDIS = ("redis-tools", "redis-server")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
SPDX = "https://spdx.dev/Document"


@dataclass(frozen=True)
class Architecture:
    """An architecture by Debian's name and as an OCI platform."""

    debian: str
    oci: str
    variant: str = ""

    @property
    def platform(self) -> dict[str, str]:
        """The `platform` of an index's entry."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.oci, "os": "linux", **variant}


AMD64 = Architecture("amd64", "amd64")
ARCHITECTURES = (AMD64, Architecture("arm64", "arm64", "v8"), Architecture("armhf", "arm", "v7"))

ENTRYPOINT = """\
#!/bin/sh
set -e

# first arg is `-f` or `--some-option`, or ends in `.conf`
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
	set -- redis-server "$@"
fi

exec "$@"
"""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a tool and return its output.

    Raises:
        SystemExit: the tool failed; carries the command and what it said.
    """
    argv = [str(part) for part in command]
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"live stack: `{' '.join(argv)}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


# Packages


def package(debs: Path, name: str, architecture: Architecture) -> Path:
    """Return the file of a package that was fetched."""
    (found,) = debs.glob(f"{name}_*_{architecture.debian}.deb")
    return found


def fetch_packages(cache: Path) -> Path:
    """Return the folder with the packages; what is not there yet is fetched from Debian.

    apt runs on a configuration and a state of its own: the machine's architectures and package lists stay as they are.
    """
    make_debian(cache)
    debs = cache / "debs"
    wanted = sorted(f"{name}:{arch.debian}" for arch in ARCHITECTURES for name in (*BASE, *LIBRARIES, *REDIS))
    complete = debs / "complete"
    if complete.exists() and complete.read_text().split() == wanted:
        return debs
    shutil.rmtree(debs, ignore_errors=True)
    apt = cache / "apt"
    for folder in (debs, apt / "lists" / "partial", apt / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {SOURCE}\n")
    # apt reads APT_CONFIG first, then the machine's apt.conf.d (which may name a proxy), then Dir::Etc::main: ours has
    # the last word, and takes out hooks that act on the machine's own state.
    machine = Path("/etc/apt/apt.conf")
    include = f'#include "{machine}"\n' if machine.exists() else ""
    architectures = " ".join(f'"{architecture.debian}";' for architecture in ARCHITECTURES)
    (apt / "main.conf").write_text(
        f"{include}"
        "#clear APT::Update;\n"
        f'Dir::State "{apt}";\nDir::State::lists "lists/";\nDir::State::status "{apt}/status";\nDir::Cache "{apt}";\n'
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'APT::Architecture "{AMD64.debian}";\n'
        f"#clear APT::Architectures;\nAPT::Architectures {{ {architectures} }};\n"
        'Acquire::Languages "none";\nAcquire::Retries "3";\nAPT::Sandbox::User "root";\n'
    )
    (apt / "apt.conf").write_text(f'Dir::Etc::main "{apt}/main.conf";\n')
    env = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    run("apt-get", "-q", "update", env=env)
    run("apt-get", "-q", "download", *wanted, cwd=debs, env=env)
    shutil.rmtree(apt)
    complete.write_text("\n".join(wanted))
    return debs


def make_debian(cache: Path) -> None:
    """Make the archive of a small Debian, by mmdebstrap from the machine's own sources, unless it is there.

    dpkg waits for the disk after each package: in memory it takes a quarter of the time.
    """
    archive, partial = cache / "debian.tar", cache / "debian-partial.tar"
    if archive.exists() or shutil.which("mmdebstrap") is None:
        return
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(partial)]
    if os.geteuid() == 0:
        in_memory = 'mount -t tmpfs tmpfs "$0" && TMPDIR="$0" exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", in_memory, "/mnt", *command]
    run(*command)
    partial.replace(archive)


# Images


def history_of(created_by: str) -> tuple[str, ...]:
    """Return umoci's options for an entry of the image's history."""
    return ("--history.created", CREATED, "--history.created_by", created_by)


@dataclass(frozen=True)
class Build:
    """One image in the making: a tag in an OCI layout and its unpacked bundle."""

    layout: Path
    bundle: Path
    debs: Path
    architecture: Architecture

    @property
    def image(self) -> str:
        """The image as umoci names it."""
        return f"{self.layout}:{self.architecture.debian}"

    @property
    def rootfs(self) -> Path:
        """The image's files."""
        return self.bundle / "rootfs"

    def add_packages(self, names: Iterable[str]) -> None:
        """Unpack packages as Docker's slim images do: without changelogs. Everything belongs to root."""
        for name in names:
            deb = package(self.debs, name, self.architecture)
            files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
            tar = ["tar", "-x", "--no-same-owner", "--same-permissions", "--exclude=./usr/share/doc/*/changelog*"]
            subprocess.run([*tar, "-C", str(self.rootfs)], stdin=files.stdout, check=True)
            if files.wait():
                raise SystemExit(f"live stack: dpkg-deb cannot read {deb}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the image."""
        file = self.rootfs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def commit(self, created_by: str) -> None:
        """Make what changed in the bundle a layer; umoci finds it out and writes the whiteouts."""
        run("find", self.rootfs, "-newermt", f"@{EPOCH}", "-exec", "touch", "-h", "-d", f"@{EPOCH}", "{}", "+")
        history = history_of(f"/bin/sh -c {created_by}")
        run("umoci", "repack", "--refresh-bundle", "--image", self.image, *history, self.bundle)


def build_image(build: Build, scratch: Path) -> None:
    """Make the image of one architecture: six layers, as a Dockerfile of redis would."""
    run("umoci", "new", "--image", build.image)
    run("umoci", "unpack", "--image", build.image, build.bundle)
    rootfs = build.rootfs

    build.add_packages(BASE)
    for applet in ("cat", "ls", "mkdir", "rm", "sh"):
        (rootfs / "bin" / applet).hardlink_to(rootfs / "bin" / "busybox")
    build.commit("#(nop) ADD file:debian-bookworm-busybox in /")

    build.add_packages(LIBRARIES)
    build.commit("apt-get install -y --no-install-recommends " + " ".join(LIBRARIES))

    build.add_packages(REDIS)
    (rootfs / "usr/bin/redis-check-aof").unlink()  # Debian ships the same bytes twice
    (rootfs / "usr/bin/redis-check-aof").hardlink_to(rootfs / "usr/bin/redis-check-rdb")
    build.commit("apt-get install -y --no-install-recommends " + " ".join(REDIS))

    # Whiteouts of folders and of files beside which others stay, and a file that replaces one of a lower layer.
    shutil.rmtree(rootfs / "usr/share/man")
    shutil.rmtree(rootfs / "lib/systemd")
    (rootfs / "etc/init.d/redis-server").unlink()
    (rootfs / "usr/bin/redis-benchmark").unlink()
    conf = (rootfs / "etc/redis/redis.conf").read_text()
    build.write("etc/redis/redis.conf", conf.replace("\nprotected-mode yes\n", "\nprotected-mode no\n"))
    build.commit("rm -r /usr/share/man /lib/systemd /etc/init.d/redis-server /usr/bin/redis-benchmark; sed -i …")

    build.write("usr/local/bin/docker-entrypoint.sh", ENTRYPOINT, 0o755)
    (rootfs / "entrypoint.sh").symlink_to("usr/local/bin/docker-entrypoint.sh")
    (rootfs / "data").mkdir()
    build.commit("mkdir /data; ln -s usr/local/bin/docker-entrypoint.sh /entrypoint.sh # backwards compat")

    # umoci knows no opaque whiteouts; overlayfs makes one when a folder is removed and made anew. This layer is tar's.
    replaced = scratch / "replaced" / "usr" / "share" / "doc"
    replaced.mkdir(parents=True, exist_ok=True)
    (replaced / ".wh..wh..opq").touch()
    (replaced / "README").write_text("Documentation was left out to keep the image small.\n")
    archive = scratch / "replaced.tar"
    owner = ("--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX")
    order = ("--format=gnu", "--sort=name", f"--mtime=@{EPOCH}")
    run("tar", "-c", *owner, *order, "-f", archive, "-C", scratch / "replaced", "usr/share/doc")
    history = history_of("/bin/sh -c rm -r /usr/share/doc; mkdir /usr/share/doc; …")
    run("umoci", "raw", "add-layer", "--image", build.image, *history, archive)

    platform = ("--architecture", build.architecture.oci, "--os", "linux", "--created", CREATED)
    history = history_of('/bin/sh -c #(nop) CMD ["redis-server"]')
    config = {
        "env": ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "REDIS_VERSION=7.0.15"),
        "exposedports": ("6379/tcp",),
        "volume": ("/data",),
        "workingdir": ("/data",),
        "entrypoint": ("docker-entrypoint.sh",),
        "cmd": ("redis-server",),
        "label": ("org.opencontainers.image.title=redis",),
    }
    options = [part for name, values in config.items() for value in values for part in (f"--config.{name}", value)]
    run("umoci", "config", "--image", build.image, *platform, *history, *options)


class Layout:
    """The OCI layout the images are made in, for the documents that are written by hand."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, tag: str) -> dict[str, object]:
        """Return the descriptor of a tag, without its name."""
        index = json.loads((self._path / "index.json").read_text())
        for entry in index["manifests"]:
            if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
                return {key: entry[key] for key in ("mediaType", "digest", "size")}
        raise KeyError(tag)

    def add(self, media_type: str, content: object, tag: str | None = None) -> dict[str, object]:
        """Store a JSON document and return its descriptor; with `tag`, name it in the layout's index."""
        raw = json.dumps(content, indent=2).encode()
        hexadecimal = hashlib.sha256(raw).hexdigest()
        (self._path / "blobs/sha256" / hexadecimal).write_bytes(raw)
        descriptor: dict[str, object] = {"mediaType": media_type, "digest": f"sha256:{hexadecimal}", "size": len(raw)}
        if tag:
            file = self._path / "index.json"
            index = json.loads(file.read_text())
            index["manifests"].append(descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}})
            file.write_text(json.dumps(index))
        return descriptor


def attest(layout: Layout, debs: Path, architecture: Architecture, image: dict[str, object]) -> dict[str, object]:
    """Add an attestation as BuildKit attaches it, and return its entry in the index.

    It says what is in the image: an SPDX document of the packages, from dpkg's own fields
    (https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md).
    """
    packages = []
    for name in (*BASE, *LIBRARIES, *REDIS):
        version = run("dpkg-deb", "-f", package(debs, name, architecture), "Version").strip()
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A')}?arch={architecture.debian}"
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
        packages.append(
            {
                "SPDXID": f"SPDXRef-{name}",
                "name": name,
                "versionInfo": version,
                "downloadLocation": "NOASSERTION",
                "externalRefs": [reference],
            }
        )
    digest = str(image["digest"])
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": SPDX,
        "subject": [{"name": f"redis-{architecture.debian}", "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicate": {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": f"redis-{architecture.debian}",
            "documentNamespace": f"https://example.org/redis/{digest}",
            "creationInfo": {"created": CREATED, "creators": ["Tool: dpkg-deb"]},
            "packages": packages,
        },
    }
    layer = layout.add(IN_TOTO, statement)
    unknown = {"architecture": "unknown", "os": "unknown"}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = layout.add(OCI_CONFIG, {**unknown, "config": {}, "rootfs": rootfs})
    layer["annotations"] = {"in-toto.io/predicate-type": SPDX}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    annotations = {"vnd.docker.reference.digest": digest, "vnd.docker.reference.type": "attestation-manifest"}
    return layout.add(OCI_MANIFEST, manifest) | {"annotations": annotations, "platform": unknown}


def build_layout(path: Path, debs: Path, scratch: Path) -> None:
    """Make an OCI layout with a tag for each architecture, and the tags `index` and `index-plain` (no attestations)."""
    run("umoci", "init", "--layout", path)
    for architecture in ARCHITECTURES:
        build_image(Build(path, scratch / architecture.debian, debs, architecture), scratch)
    layout = Layout(path)
    plain: list[dict[str, object]] = []
    attested: list[dict[str, object]] = []
    for architecture in ARCHITECTURES:
        image = layout.find(architecture.debian)
        entry = image | {"platform": architecture.platform}
        plain.append(entry)
        attested += [entry, attest(layout, debs, architecture, image)]
    layout.add(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": attested}, "index")
    layout.add(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": plain}, "index-plain")


# Registry


def push(layout: Path, registry: str) -> None:
    """Push the tags of every repository to a registry that takes writes over plain HTTP."""
    tags: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("latest", "amd64", ("--format", "v2s2")),
        ("7-oci", "amd64", ("--preserve-digests",)),
        ("7", "index", ("--all", "--preserve-digests")),
        ("7-list", "index-plain", ("--all", "--format", "v2s2")),
    )
    for repository in REPOSITORIES:
        for tag, source, options in tags:
            copy = ("skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", *options)
            run(*copy, f"oci:{layout}:{source}", f"docker://{registry}/{repository}:{tag}")


def place_genuine(storage: Path) -> None:
    """Place the manifest of redis 3.2.6 into a registry's storage, byte for byte.

    A registry refuses a PUT of it, since its layers are not there. The places are those of distribution's filesystem
    layout (registry/storage/paths.go): the blob, a link for the revision, and two for the tag.
    """
    raw = GENUINE.read_bytes()
    hexadecimal = hashlib.sha256(raw).hexdigest()
    root = storage / "docker/registry/v2"
    blob = root / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(raw)
    for repository in REPOSITORIES:
        manifests = root / "repositories" / repository / "_manifests"
        revision = f"sha256/{hexadecimal}"
        for place in (f"revisions/{revision}", "tags/3.2.6/current", f"tags/3.2.6/index/{revision}"):
            link = manifests / place / "link"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.write_text(f"sha256:{hexadecimal}")


def settle(storage: Path) -> None:
    """Give every file the same time, so that the CDN's Last-Modified and ETag do not change from build to build."""
    run("find", storage, "-exec", "touch", "-h", "-d", f"@{EPOCH}", "{}", "+")
