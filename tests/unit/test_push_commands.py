"""The commands that give: what they write, what they say, and how they end."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import distsdk
from distsdk import Digest
from distsdk.testing import Registry

from ..support import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An image ``app:1`` of two platforms."""
    with Registry() as registry:
        images = [registry.add_image("app", layers=[b"1"], platform=name) for name in ("linux/amd64", "linux/arm64")]
        registry.add_index("app", "1", manifests=images)
        yield registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files."""
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "odd:name").write_text("odd")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Run a command; return its code, and what it wrote and said."""
    done = run_command(*arguments)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def written(*arguments: str | Path) -> str:
    """What a command writes that succeeds; it has nothing to say."""
    code, out, said = run(*arguments)
    assert (0, "") == (code, said)
    return out.rstrip("\n")


def manifest(name: str) -> dict[str, Any]:
    """The fields of a manifest."""
    fields: dict[str, Any] = json.loads(written("fetch", name))
    return fields


def test_push_writes_the_digest(registry: Registry, folder: Path) -> None:
    """Files with types of their own, folders, a configuration, annotations; as JSON, the descriptor."""
    name = f"{registry.locator('data')}:v1"
    words = ["push", name, "a.txt:text/plain", "odd:name", "tree", "--config", "a.txt:x/config"]
    words += ["--artifact-type", "x/data", "--annotation", "k=v=w", "--annotation", "empty="]
    digest = written(*words)
    assert digest == written("resolve", name)
    fields = manifest(name)
    assert [
        ("a.txt", "text/plain"),
        ("odd:name", "application/vnd.oci.image.layer.v1.tar"),
        ("tree", "application/vnd.oci.image.layer.v1.tar+gzip"),
    ] == [(layer["annotations"]["org.opencontainers.image.title"], layer["mediaType"]) for layer in fields["layers"]]
    assert ("x/config", "x/data", {"k": "v=w", "empty": ""}) == (
        fields["config"]["mediaType"],
        fields["artifactType"],
        fields["annotations"],
    )
    described = json.loads(written(*words, "--json"))
    assert (digest, "x/data") == (described["digest"], described["artifactType"])


def test_attach_and_referrers(registry: Registry, folder: Path) -> None:
    """A tree, for people and as JSON."""
    name = f"{registry.locator('app')}:1"
    sbom = written("attach", name, "a.txt", "--artifact-type", "x/sbom")
    signature = written("attach", f"{registry.locator('app')}@{sbom}", "a.txt", "--artifact-type", "x/sig")
    other = written("attach", name, "--artifact-type", "x/note", "--annotation", "a=b")
    part = written("attach", name, "a.txt", "--artifact-type", "x/sbom", "--platform", "linux/arm64")
    root = written("resolve", name)
    lines = written("referrers", name).splitlines()
    assert root == lines[0]
    assert {sbom, signature, other} == {line.split("── ")[1].split()[0] for line in lines[1:]}
    [below] = [line for line in lines if signature in line]
    assert below.startswith(("│   └── ", "    └── "))
    tree = json.loads(written("referrers", name, "--json"))
    assert (root, {sbom: [signature], other: []}) == (
        tree["digest"],
        {entry["digest"]: [inner["digest"] for inner in entry["referrers"]] for entry in tree["referrers"]},
    )
    assert [sbom] == [
        e["digest"] for e in json.loads(written("referrers", name, "--artifact-type", "x/sbom", "--json"))["referrers"]
    ]
    assert part in written("referrers", name, "--platform", "linux/arm64")
    assert (2, "") == run("attach", name, "a.txt")[:2]


def test_strange_types_cannot_move_the_cursor(registry: Registry, folder: Path) -> None:
    """What a registry lists is shown escaped."""
    image = registry.add_image("app", "one", layers=[b"1"])
    registry.add_artifact("app", artifact_type="x/\x1b[2J", files={"a": b"1"}, subject=image)
    code, out, said = run("referrers", f"{registry.locator('app')}:one")
    assert (0, "") == (code, said)
    assert "x/\\x1b[2J" in out


def test_copy_writes_the_digest(registry: Registry, folder: Path) -> None:
    """From a registry to a layout and back; referrers on request; one platform."""
    name = f"{registry.locator('app')}:1"
    written("attach", name, "a.txt", "--artifact-type", "x/sbom")
    digest = written("copy", name, "./layout:1", "--referrers")
    assert digest == written("resolve", name) == written("resolve", "./layout:1")
    assert digest == written("copy", "./layout:1", f"{registry.locator('back')}:1", "--referrers", "-j", "2")
    assert "x/sbom" in written("referrers", f"{registry.locator('back')}:1")
    child = written("copy", name, "./layout:arm", "--platform", "linux/arm64")
    assert child == written("resolve", name, "platform:linux/arm64") == written("resolve", "./layout:arm")
    assert digest == json.loads(written("copy", name, "./layout:again", "--json"))["digest"]


def test_delete_wants_to_be_told_twice(registry: Registry, folder: Path) -> None:
    """Without ``--yes`` nothing happens; with it the tag goes, and then it is not found."""
    name = f"{registry.locator('app')}:1"
    code, out, said = run("delete", name)
    assert (2, "", True) == (code, out, "add --yes" in said)
    assert "" == written("delete", "--yes", name)
    assert 3 == run("delete", "--yes", name)[0]
    assert 3 == run("resolve", name)[0]


def test_verify_says_who_signed(registry: Registry, folder: Path) -> None:
    """The digest on stdout, the rest on stderr; another key, or no signature, is no success."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    for path, pair in (("key.pub", key), ("other.pub", other)):
        pem = pair.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / path).write_bytes(pem)
    name = f"{registry.locator('app')}:1"
    assert (3, "") == run("verify", "--key", "key.pub", name)[:2]
    digest = written("resolve", name)
    critical = {
        "identity": {"docker-reference": "app"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    signature = b64encode(key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
    kind = "application/vnd.dev.cosign.simplesigning.v1+json"
    layer = registry.add_blob("app", payload, media_type=kind).to_fields()
    registry.add_manifest(
        "app",
        {
            "schemaVersion": 2,
            "config": registry.add_blob("app", b"{}").to_fields(),
            "layers": [{**layer, "annotations": {"dev.cosignproject.cosign/signature": signature}}],
        },
        "application/vnd.oci.image.manifest.v1+json",
        tags=[digest.replace(":", "-") + ".sig"],
    )
    code, out, said = run("verify", "--key", "key.pub", name)
    assert (0, f"{digest}\n") == (code, out)
    assert "signed as app with ECDSA P-256 sha256:" in said
    assert (0, f"{digest}\n", "") == run("verify", "--quiet", "--key", "key.pub", name)
    found = json.loads(written("verify", "--key", "key.pub", "--json", name))
    assert (digest, ["app"], []) == (found["digest"], [s["identity"] for s in found["signatures"]], found["rejected"])
    assert str(Digest.of(payload)) == found["signatures"][0]["payload"]
    code, out, said = run("verify", "--key", "other.pub", name)
    assert (5, "", True) == (code, out, "is not verified" in said)
    assert 2 == run("verify", "--key", "a.txt", name)[0]
    assert 2 == run("verify", "--key", "missing.pub", name)[0]


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["push", "REF@sha256:" + "0" * 64, "a.txt"], 2, "push to a tag"),
        (["push", "REF:v1", "a.txt:no/type/this"], 2, "is not a media type"),
        (["push", "REF:v1", "a.txt", "--artifact-type", "x"], 2, "is not a media type"),
        (["push", "REF:v1", "a.txt", "--annotation", "x"], 2, "KEY=VALUE"),
        (["push", "docker://x", "a.txt"], 2, "docker://"),
        (["push", "./a.txt:v1", "a.txt"], 8, "a.txt exists and is not replaced"),
        (["push", "memory://x:v1", "a.txt"], 4, "cannot be pushed to"),
        (["push", "REF:1"], 2, "nothing to push to"),
        (["attach", "./x.tar:v1", "a.txt", "--artifact-type", "x/y"], 4, "cannot add to the archive"),
        (["copy", "REF:1", "docker-archive:x.tar"], 2, "write ./x.tar, and let copy --docker write such an archive"),
        (["copy", "REF:1", "./layout", "--docker"], 2, "name a file that ends in .tar"),
        (["copy", "REF:1", "./x.tar.gz:1", "--docker"], 2, "name a file that ends in .tar"),
        (["attach", "REF:none", "a.txt", "--artifact-type", "x/y"], 3, "does not exist"),
        (["copy", "REF:none", "REF:v1"], 3, "does not exist"),
        (["copy", "REF:1", "REF@sha256:" + "0" * 64], 5, "the target is to be"),
        (["copy", "REF:1", "REF:2", "--platform", "windows/arm64"], 3, "windows/arm64"),
        (["referrers", "REF:none"], 3, "does not exist"),
        (["delete", "--yes", "REF:none"], 3, "does not exist"),
    ],
)
def test_what_goes_wrong_is_one_line(registry: Registry, folder: Path, words: list[str], code: int, match: str) -> None:
    """With a code for its kind, and nothing on stdout."""
    done, out, said = run(*(word.replace("REF", registry.locator("app")) for word in words))
    assert (code, "") == (done, out), said
    assert match in said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(("distsdk: ", "Error: "))


def test_copy_and_push_write_archives(registry: Registry, folder: Path) -> None:
    """Under a plain file name, in either format; an archive that exists is replaced by force alone."""
    name = f"{registry.locator('app')}:1"
    digest = written("copy", name, "x.tar")
    assert digest == written("resolve", "x.tar:1") == written("resolve", name)
    child = written("copy", "--docker", "--platform", "linux/arm64", name, "d.tar")
    assert child == written("resolve", "--platform", "linux/arm64", name)
    assert "1" == written("tags", "d.tar")
    pushed = written("push", "a.tar:v1", "a.txt")
    assert pushed == written("resolve", "a.tar:v1")
    for words in (["copy", name, "x.tar"], ["push", "x.tar:1", "a.txt"]):
        code, out, said = run(*words)
        assert (8, "", True) == (code, out, "x.tar exists and is not replaced" in said)
    assert digest == written("copy", "--force", name, "a.tar")
    assert digest == written("resolve", "a.tar:1")
    assert pushed == written("push", "--force", "x.tar:2", "a.txt")
    assert ["a.tar", "d.tar", "x.tar"] == sorted(path.name for path in folder.glob("*.tar") if path.is_file())


def test_the_python_names_are_those_of_the_commands() -> None:
    """What a command does, a function of the same name does."""
    for name in ("push", "attach", "copy", "referrers", "delete"):
        assert name == getattr(distsdk, name).__name__


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", "localhost:1/x:1", "no-such-file"),
        ("push", "localhost:1/x:1", "no-such-file:text/plain"),
        ("push", "localhost:1/x:1", "--config", "no-such-file"),
        ("attach", "localhost:1/x:1", "no-such-file", "--artifact-type", "text/plain"),
        ("verify", "localhost:1/x:1", "--key", "no-such-file"),
    ],
)
def test_a_missing_file_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """A FILE that does not exist ends with 2 and a sentence that names it, before anything is requested."""
    ended = run_command(*arguments)
    assert (2, b"") == (ended.returncode, ended.stdout)
    assert re.search(rb"'no-such-file[^']*' does not exist", ended.stderr)
