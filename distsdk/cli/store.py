"""Commands that fill and maintain the store: `pull`, `images`, `content`."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import TYPE_CHECKING

import click

import distsdk
from distsdk import errors
from distsdk._text import counted, human_size, printable
from distsdk.cli.app import (
    begin,
    connect,
    exit_code,
    fitted_digest,
    main,
    option,
    read_reference,
    say,
    write,
    write_line,
)
from distsdk.spec.media_types import INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from distsdk.store.reports import Active, Info
    from distsdk.transfer.events import Plan


#: The exit code of what is damaged.
_DAMAGED = 5


def _store() -> distsdk.Store:
    return distsdk.Store(option("store"))


@main.command(example="distsdk pull --platform linux/arm64 redis:7")
@click.argument("ref")
@click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Select the image of an index (default: linux on this machine's architecture).",
)
@click.option("--all-platforms", is_flag=True, help="Download the whole index.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan; download nothing.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), metavar="N", default=4, help="Download N blobs at once (default: 4)."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Fetch N ranges of one blob at once (default: as many as are faster).",
)
@click.option("--rehash", is_flag=True, help="Hash every stored blob of the image, and replace damaged ones.")
@click.option("--json", "as_json", is_flag=True, help="Print the descriptor, or the plan, as JSON.")
def pull(
    *,
    ref: str,
    platform: str | None,
    all_platforms: bool,
    only_plan: bool,
    rehash: bool,
    jobs: int,
    connections: int | None,
    as_json: bool,
) -> None:
    """Download an image or artifact into the store.

    REF names it there, and its digest is printed. Blobs that the store has are not downloaded again; interrupted
    downloads resume. Of an index, only the chosen platform is downloaded.
    """
    if all_platforms and platform is not None:
        raise click.UsageError("--platform or --all-platforms: one of them")
    if rehash and only_plan:
        raise click.UsageError("--plan hashes nothing: leave --rehash out")
    reference = read_reference(ref)
    remote = connect(reference.locator)
    if only_plan:
        plan = distsdk.pull(
            reference, _store(), remote=remote, platform=platform, all_platforms=all_platforms, plan=True
        )
        _write_plan(plan, as_json=as_json)
        return
    descriptor = distsdk.pull(
        reference,
        _store(),
        remote=remote,
        platform=platform,
        all_platforms=all_platforms,
        progress=not option("quiet"),
        jobs=jobs,
        connections=connections,
        rehash=rehash,
    )
    write_line(json.dumps(descriptor.to_fields()) if as_json else str(descriptor.digest))


def _write_plan(plan: Plan, *, as_json: bool) -> None:
    if not as_json:
        for line in plan.lines():
            write_line(line)
        return
    steps = [{**step.descriptor.to_fields(), "here": step.here} for step in plan.steps]
    totals = {name: getattr(plan, name) for name in ("requests", "to_fetch", "size", "here", "missing")}
    write_line(json.dumps({"name": plan.name, "target": plan.target.to_fields(), **totals, "steps": steps}))


@main.group(invoke_without_command=True, example="distsdk images")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: descriptors by name.")
@click.pass_context
def images(context: click.Context, as_json: bool) -> None:
    """List the images in the store.

    An image is incomplete if the store lacks a blob of it: pull it again, or run distsdk content verify --heal.
    """
    if context.invoked_subcommand is not None:
        return
    begin(context)
    store = _store()
    found = store.images()
    incomplete = {name for name, descriptor in found.items() if store.missing(descriptor)}
    if as_json:
        state = {name: {"incomplete": True} if name in incomplete else {} for name in found}
        write_line(json.dumps({name: {**image.to_fields(), **state[name]} for name, image in found.items()}))
        return
    rows = [
        (
            name,
            fitted_digest(image.digest),
            ("index" if image.media_type in INDEXES else str(image.platform or "") or image.media_type)
            + (" (incomplete)" if name in incomplete else ""),
        )
        for name, image in found.items()
    ]
    _write_table(("NAME", "DIGEST", "PLATFORM OR TYPE"), rows)


@images.command("rm", example="distsdk images rm redis:7")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def images_rm(names: tuple[str, ...]) -> int:
    """Remove names from the store.

    The blobs stay until distsdk content gc.
    """
    store = _store()
    return _each(names, lambda name: store.untag(name if name in store.images() else str(read_reference(name))))


@main.group(example="distsdk content verify --heal")
def content() -> None:
    """Add, check and remove the blobs of the store."""


@content.command(example="distsdk content ingest backup < file")
@click.argument("key")
@click.option("--expected-digest", metavar="DIGEST", help="Require this digest.")
@click.option("--expected-size", type=click.IntRange(min=0), metavar="BYTES", help="Require this many bytes.")
def ingest(key: str, expected_digest: str | None, expected_size: int | None) -> None:
    """Add the bytes on stdin to the store.

    Their digest is printed. While it runs, distsdk content active lists the ingest under its KEY; ingests with the
    same key wait for each other.
    """
    if sys.stdin is None:
        raise click.UsageError("the bytes are read from stdin, which is closed")
    with io.FileIO(sys.stdin.fileno(), closefd=False) as stdin:
        try:
            ingested = _store().ingest(stdin, key, expected_digest=expected_digest, expected_size=expected_size)
        except ValueError as error:
            if isinstance(error, errors.DistError):
                raise
            raise click.UsageError(str(error)) from error  # the key is none
    write_line(str(ingested.digest))


@content.command(example="distsdk content active")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def active(as_json: bool) -> None:
    """List unfinished ingests, the oldest first."""
    found = _store().active()
    if as_json:
        write_line(json.dumps([_active_fields(ingest) for ingest in found]))
        return
    now = time.time()
    rows = [
        (
            ingest.key,
            human_size(ingest.offset),
            "" if ingest.total is None else human_size(ingest.total),
            f"{now - ingest.started.timestamp():.0f} s ago",
            f"{now - ingest.updated.timestamp():.0f} s ago",
            str(ingest.pid),
        )
        for ingest in found
    ]
    _write_table(("KEY", "OFFSET", "TOTAL", "STARTED", "UPDATED", "PID"), rows)


@content.command(example="distsdk content ls")
@click.option("-q", "--quiet", "only_digests", is_flag=True, help="Print digests only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def ls(only_digests: bool, as_json: bool) -> None:
    """List the blobs of the store, in no order."""
    for info in _store().blobs():
        if as_json:
            write_line(json.dumps(_info_fields(info)))
        else:
            write_line(str(info.digest) if only_digests else f"{info.digest}  {human_size(info.size):>12}")


@content.command(example="distsdk content get sha256:DIGEST > blob")
@click.argument("digest")
def get(digest: str) -> None:
    """Write a blob to stdout, verified."""
    for chunk in _store().blob(digest).stream():
        write(chunk)


@content.command(example="distsdk content path sha256:DIGEST")
@click.argument("digest")
def path(digest: str) -> None:
    """Print the path of the file that holds a blob.

    Do not change the file.
    """
    write_line(str(_store().path(digest)))


@content.command(example="distsdk content rm sha256:DIGEST")
@click.argument("digests", nargs=-1, required=True, metavar="DIGEST...")
def rm(digests: tuple[str, ...]) -> int:
    """Remove blobs, also those that an image needs."""
    return _each(digests, _store().delete)


@content.command(example="distsdk content verify --heal")
@click.option(
    "--heal", is_flag=True, help="Download damaged and missing blobs again from the registries of their images."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(heal: bool, as_json: bool) -> int:
    """Hash all blobs and quarantine the damaged ones.

    Prints the digests of damaged blobs, then the names of incomplete images. The exit code is 5 if a damaged blob was
    not replaced or an image is incomplete. An image that cannot be healed does not stop the others; its error is
    reported.
    """
    store = _store()
    found = store.verify()
    healed: dict[distsdk.Digest, None] = {}
    code = _heal(store, healed) if heal else 0
    lost = [digest for digest in found.damaged if not _has(store, digest)]
    incomplete = {name: missing for name, image in store.images().items() if (missing := store.missing(image))}
    if as_json:
        fields = {"count": found.count, "size": found.size, "damaged": [str(digest) for digest in found.damaged]}
        lacking = {name: [str(descriptor.digest) for descriptor in missing] for name, missing in incomplete.items()}
        write_line(json.dumps({**fields, "healed": [str(digest) for digest in healed], "incomplete": lacking}))
    else:
        for digest in found.damaged:
            write_line(str(digest))
        for name, lacks in incomplete.items():
            say(f"{printable(name)} is incomplete: {counted(len(lacks), 'blob')} missing; pull it again")
        total = f"{counted(found.count, 'blob')}, {human_size(found.size)}"
        unusable = f"{counted(len(incomplete), 'image')} incomplete"
        say(f"{total}: {len(found.damaged)} damaged, {len(healed)} healed, {unusable}")
    return _DAMAGED if lost or incomplete else code


def _heal(store: distsdk.Store, healed: dict[distsdk.Digest, None]) -> int:
    """Complete every image whose full name says where it came from; return the code of the first failure.

    Args:
        store: Has the images.
        healed: Takes the digests of the blobs that were fetched.
    """
    from distsdk.spec.reference import Reference
    from distsdk.transfer.pull import complete

    def complete_it(name: str) -> None:
        try:
            reference = Reference.parse(name)
        except errors.InvalidReference:
            return
        if str(reference) == name:  # a short name that another tool wrote, such as latest, names no registry
            healed.update(dict.fromkeys(complete(found[name], store, connect(reference.locator))))

    found = store.images()
    return _each(found, complete_it)


def _has(store: distsdk.Store, digest: distsdk.Digest) -> bool:
    try:
        store.info(digest)
    except errors.NotFound:
        return False
    return True


@content.command(example="distsdk content gc --dry-run")
@click.option("--dry-run", is_flag=True, help="Print the digests; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove blobs that no image needs.

    Ingests that nothing was written to for a day are removed too.
    """
    found = _store().gc(dry_run=dry_run)
    if as_json:
        blobs, ingests = [_info_fields(info) for info in found.blobs], [_active_fields(i) for i in found.ingests]
        write_line(json.dumps({"size": found.size, "blobs": blobs, "ingests": ingests}))
        return
    for info in found.blobs:
        write_line(str(info.digest))
    say(f"{len(found.blobs)} blobs and {len(found.ingests)} ingests, {human_size(found.size)}")


def _info_fields(info: Info) -> dict[str, object]:
    return {"digest": str(info.digest), "size": info.size, "committed": info.committed.isoformat()}


def _active_fields(ingest: Active) -> dict[str, object]:
    return {
        "key": ingest.key,
        "digest": None if ingest.digest is None else str(ingest.digest),
        "offset": ingest.offset,
        "total": ingest.total,
        "started": ingest.started.isoformat(),
        "updated": ingest.updated.isoformat(),
        "pid": ingest.pid,
    }


def _write_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows under their heads, the columns as wide as they have to be."""
    shown = [tuple(printable(cell) for cell in row) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _each(names: Iterable[str], act: Callable[[str], object]) -> int:
    """Act on each; one that fails is told, and the others go on. Return the code of the first failure, 0 for none."""
    failed: list[int] = []
    for name in names:
        try:
            act(name)
        except errors.DistError as error:
            say(error)
            failed.append(exit_code(error))
    return failed[0] if failed else 0
