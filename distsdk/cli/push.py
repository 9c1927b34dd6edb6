"""Commands that write to a registry or a layout, and commands that list and check what refers to an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distsdk
from distsdk import errors
from distsdk._text import human_size, quoted
from distsdk.cli.app import connect, main, option, read_reference, say, without_scheme, write_line
from distsdk.spec.media_types import parse_media_type

if TYPE_CHECKING:
    from distsdk.remotes.remote import Remote
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest

#: Referrers of referrers that are shown, one below the other.
MAX_DEPTH = 8

_platform = click.option("--platform", metavar="OS/ARCH", help="Copy one image of an index (default: the whole index).")
_annotations = click.option(
    "--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Annotate the manifest (repeatable)."
)
_jobs = click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), metavar="N", default=4, help="Transfer N blobs at once (default: 4)."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the descriptor as JSON.")
_force = click.option("--force", is_flag=True, help="Replace an archive that exists.")


@main.command(example="distsdk push registry.example/data:1 table.csv:text/csv")
@click.argument("ref")
@click.argument("files", nargs=-1, metavar="[FILE[:TYPE]]...")
@click.option("--artifact-type", metavar="TYPE", help="Set the media type of the artifact.")
@click.option("--config", metavar="FILE[:TYPE]", help="Set the config of the artifact (default: an empty one).")
@_annotations
@_force
@_jobs
@_json
def push(
    *,
    ref: str,
    files: tuple[str, ...],
    artifact_type: str | None,
    config: str | None,
    annotations: tuple[str, ...],
    force: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Upload files as an artifact named REF.

    Each FILE becomes a layer with the media type TYPE; a directory becomes an archive. The digest is printed; the same
    files have the same digest. Blobs that the registry has are not sent again.
    """
    reference = read_reference(ref)
    pushed = distsdk.push(
        reference,
        *map(_file, files),
        artifact_type=artifact_type,
        config=None if config is None else _file(config),
        annotations=_read_annotations(annotations),
        remote=connect(reference.locator),
        force=force,
        progress=not option("quiet"),
        jobs=jobs,
    )
    _write_descriptor(pushed, as_json=as_json)


@main.command(example="distsdk attach app:1 sbom.json --artifact-type application/spdx+json")
@click.argument("ref")
@click.argument("files", nargs=-1, metavar="[FILE[:TYPE]]...")
@click.option("--artifact-type", required=True, metavar="TYPE", help="Set the media type of the artifact.")
@click.option("--platform", metavar="OS/ARCH", help="Attach to one image of an index (default: to the index).")
@_annotations
@_jobs
@_json
def attach(
    *,
    ref: str,
    files: tuple[str, ...],
    artifact_type: str,
    platform: str | None,
    annotations: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Upload files as an artifact that refers to REF.

    The artifact has no tag; distsdk referrers REF lists it. Its digest is printed.
    """
    reference = read_reference(ref)
    attached = distsdk.attach(
        reference,
        *map(_file, files),
        artifact_type=artifact_type,
        platform=platform,
        annotations=_read_annotations(annotations),
        remote=connect(reference.locator),
        progress=not option("quiet"),
        jobs=jobs,
    )
    _write_descriptor(attached, as_json=as_json)


@main.command(example="distsdk copy redis:7 registry.example/redis:7")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@_platform
@click.option("--referrers", "with_referrers", is_flag=True, help="Copy the referrers too: signatures, SBOMs.")
@click.option("--docker", is_flag=True, help="Write an archive for docker load, of one platform.")
@_force
@_jobs
@_json
def copy(
    *,
    source: str,
    target: str,
    platform: str | None,
    with_referrers: bool,
    docker: bool,
    force: bool,
    jobs: int,
    as_json: bool,
) -> None:
    """Copy an image or artifact, byte for byte.

    SRC and DST are REFs of registries or of OCI layouts. Only missing blobs are transferred, without a temporary copy
    on disk. A DST that ends in .tar is written as an OCI archive, or with --docker as one for docker load. The digest
    is printed.
    """
    target = without_scheme(target)
    giver, taker = read_reference(source), read_reference(target)
    copied = distsdk.copy(
        giver,
        target,
        platform=platform,
        referrers=with_referrers,
        source_remote=connect(giver.locator),
        target_remote=connect(taker.locator),
        docker=docker,
        force=force,
        progress=not option("quiet"),
        jobs=jobs,
    )
    _write_descriptor(copied, as_json=as_json)


@main.command(example="distsdk referrers registry.example/app:1")
@click.argument("ref")
@click.option("--artifact-type", metavar="TYPE", help="List artifacts of this type only.")
@click.option("--platform", metavar="OS/ARCH", help="List referrers of one image of an index (default: of the index).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, a tree of descriptors.")
def referrers(*, ref: str, artifact_type: str | None, platform: str | None, as_json: bool) -> None:
    """List the artifacts that refer to REF, as a tree.

    These are signatures, SBOMs, attestations, and the artifacts that refer to those.
    """
    from distsdk.transfer.graph import Walk

    reference = read_reference(ref)
    remote = connect(reference.locator)
    chosen = None if platform is None else distsdk.Platform.parse(platform)
    root = Walk(remote).target(reference, chosen)
    tree = _tree(remote, root.digest, artifact_type, {root.digest}, 1)
    if as_json:
        write_line(json.dumps({**root.to_fields(), "referrers": _tree_fields(tree)}))
        return
    write_line(str(root.digest))
    _write_tree(tree, "")


#: A referrer, and those of its own.
_Tree = list[tuple["Descriptor", Any]]


def _tree(remote: Remote, digest: Digest, artifact_type: str | None, seen: set[Digest], depth: int) -> _Tree:
    from distsdk.transfer.graph import MAX_DOCUMENTS

    found: _Tree = []
    for descriptor in remote.referrers(digest, artifact_type=artifact_type):
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        if len(seen) > MAX_DOCUMENTS:
            message = f"more than {MAX_DOCUMENTS} referrers: list those of one, or of one type"
            raise errors.LimitExceeded(message, limit=MAX_DOCUMENTS)
        below = _tree(remote, descriptor.digest, None, seen, depth + 1) if depth < MAX_DEPTH else []
        found.append((descriptor, below))
    return found


def _tree_fields(tree: _Tree) -> list[dict[str, object]]:
    return [{**descriptor.to_fields(), "referrers": _tree_fields(below)} for descriptor, below in tree]


def _write_tree(tree: _Tree, before: str) -> None:
    for number, (descriptor, below) in enumerate(tree, 1):
        last = number == len(tree)
        kind = descriptor.artifact_type or descriptor.media_type
        write_line(f"{before}{'└── ' if last else '├── '}{descriptor.digest}  {kind}  {human_size(descriptor.size)}")
        _write_tree(below, before + ("    " if last else "│   "))


@main.command(example="distsdk delete --yes registry.example/app:1")
@click.argument("ref")
@click.option("--yes", is_flag=True, help="Confirm the deletion (required).")
def delete(ref: str, yes: bool) -> None:
    """Delete a tag, or a manifest with all its tags.

    A REF with a tag deletes the tag and keeps the manifest where the registry can do that; a REF with a digest deletes
    the manifest. Deleting cannot be undone.
    """
    reference = read_reference(ref)
    if not yes:
        raise click.UsageError(f"this deletes {reference} for good: add --yes")
    distsdk.delete(reference, remote=connect(reference.locator))


@main.command(example="distsdk verify --key cosign.pub registry.example/app:1")
@click.argument("ref")
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Verify with this public key, in PEM form.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(ref: str, key: Path, as_json: bool) -> None:
    """Verify that REF was signed with a key.

    Signatures are those of cosign sign --key; keyless ones are not verified. The digest is printed: use that from then
    on, since the tag may move.
    """
    if not key.exists():
        raise click.UsageError(f"key {quoted(str(key), 400)} does not exist")
    reference = read_reference(ref)
    verdict = distsdk.verify_signatures(reference, key, remote=connect(reference.locator))
    if as_json:
        signatures = [
            {
                "manifest": str(found.manifest),
                "payload": str(found.payload),
                "identity": found.identity,
                "annotations": found.annotations,
            }
            for found in verdict.signatures
        ]
        rejected = [
            {"manifest": str(entry.manifest), "payload": entry.payload and str(entry.payload), "why": entry.why}
            for entry in verdict.rejected
        ]
        fields = {"kind": verdict.key.kind, "fingerprint": str(verdict.key.fingerprint)}
        write_line(
            json.dumps({**verdict.subject.to_fields(), "key": fields, "signatures": signatures, "rejected": rejected})
        )
        return
    write_line(str(verdict.subject.digest))
    if not option("quiet"):
        for found in verdict.signatures:
            what = f" as {found.identity}" if found.identity else ""
            say(f"signed{what} with {verdict.key}")


def _write_descriptor(descriptor: Descriptor, *, as_json: bool) -> None:
    write_line(json.dumps(descriptor.to_fields()) if as_json else str(descriptor.digest))


def _file(word: str) -> str | tuple[str, str]:
    """Parse ``FILE`` or ``FILE:TYPE``; an existing file with the whole text as its name wins.

    Raises:
        UsageError: There is no such file.
        InvalidConfig: TYPE is not a media type.
    """
    path, colon, kind = word.rpartition(":")
    if Path(word).exists():
        return word
    if not colon or not Path(path).exists():
        raise click.UsageError(f"file {quoted(word, 400)} does not exist")
    try:
        return path, parse_media_type(kind)
    except ValueError as error:
        raise errors.InvalidConfig(f"{word}: {error}") from error


def _read_annotations(words: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise click.UsageError(f"an annotation is KEY=VALUE, not {word}")
        found[key] = value
    return found
