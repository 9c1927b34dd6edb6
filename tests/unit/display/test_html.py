"""What notebooks show: well-formed, escaped, bounded, and without a look anywhere else."""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import socket
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distsdk
from distsdk._repr import FixedRows, NamedRows, Rows
from distsdk._text import printable
from distsdk.analysis.diff import Diff, FileChange, PackageChange, SequenceDiff, SettingChange
from distsdk.analysis.packages import Package
from distsdk.analysis.usage import Usage
from distsdk.content.blob import Blob
from distsdk.display import html
from distsdk.images.image import Layer
from distsdk.layers.layer import LayerFiles
from distsdk.layers.member import Kind, Member
from distsdk.layers.merged import Entry
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import HistoryEntry, ImageConfig, Index, Manifest
from distsdk.spec.media_types import DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Locator, Reference
from distsdk.store.reports import Active, Collected
from distsdk.transfer.events import Plan, Step

from .pages import Displayed, Page, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.source import Stat

DIGEST = Digest.of(b"")
SHA512 = Digest.of(b"", "sha512")


def entry(media_type: str = OCI_LAYER_GZIP, size: int = 10, **more: object) -> dict[str, object]:
    """Return a descriptor as documents hold it."""
    return {"mediaType": media_type, "digest": str(DIGEST), "size": size, **more}


def a_manifest(layers: list[dict[str, object]], **more: object) -> Manifest:
    """Return a manifest of these layers."""
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry(OCI_CONFIG, 7), "layers": layers, **more}
    return Manifest.parse(json.dumps(fields).encode())


def an_index(manifests: list[dict[str, object]], **more: object) -> Index:
    """Return an index of these manifests."""
    fields = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **more}
    return Index.parse(json.dumps(fields).encode())


def a_config(config: dict[str, object] | None = None, **more: object) -> ImageConfig:
    """Return an image config."""
    fields = {"os": "linux", "architecture": "amd64", "config": config or {}, **more}
    return ImageConfig.parse(json.dumps(fields).encode())


def a_plan(*here: int, name: str = "registry.test/x:1", media_type: str = OCI_LAYER_GZIP) -> Plan:
    """Return the plan of a pull of layers of a million bytes, of which so many are here, by a document of 500 bytes."""
    steps = tuple(Step(Descriptor(media_type, DIGEST, 1_000_000), count) for count in here)
    missing = [step.missing for step in steps if step.missing]
    return Plan(name, Descriptor(media_type, DIGEST, 7), steps, 1 + len(missing), 500 + sum(missing))


def an_image(
    layers: list[tuple[Descriptor, HistoryEntry | None]],
    config: dict[str, object] | None = None,
    name: str = "r.test/x:1",
) -> str:
    """Return the page of an image."""
    return html.image(name, DIGEST, a_config(config), tuple(layers), 12_345)


def a_diff(
    *,
    settings: list[tuple[str, object, object]] | None = None,
    steps: list[str] | None = None,
    layers: list[Descriptor] | None = None,
    packages: list[tuple[Package | None, Package | None]] | None = None,
    files: list[tuple[str, int | None, int | None]] | None = None,
    name: Reference | None = None,
) -> Diff:
    """Return a diff with these settings, steps and layers that are gone, packages, and files by their sizes."""

    def entry(path: str, size: int | None) -> Entry | None:
        return None if size is None else Entry(path, Member(path=b"", kind=Kind.FILE, size=size), 0)

    reference = name or Reference.parse(f"r.test/x:1@{DIGEST}")
    return Diff(
        reference,
        reference,
        tuple(SettingChange(*change) for change in settings or ()),
        SequenceDiff(3, tuple(HistoryEntry(created_by=step) for step in steps or ()), ()),
        SequenceDiff(2, tuple(layers or ()), ()),
        tuple(PackageChange(*change) for change in packages or ()),
        tuple(
            FileChange(path, entry(path, a), entry(path, b), ("content",) if a and b else ())
            for path, a, b in files or ()
        ),
    )


def an_entry(path: str, **more: Any) -> Entry:  # noqa: ANN401 - fields of a member
    """Return an entry of a merged tree."""
    return Entry(path, Member(path=os.fsencode(path), **{"kind": Kind.FILE, "size": 5, **more}), 0)


def an_ingest(key: str) -> Active:
    """Return an ingest that has begun."""
    moment = datetime(2026, 11, 24, 12, tzinfo=UTC)
    return Active(key, None, 20_000, None, moment, moment, 77)


def a_layer(descriptor: Descriptor | None = None, history: HistoryEntry | None = None) -> Layer:
    """Return a layer whose bytes are nowhere."""
    descriptor = descriptor or Descriptor(OCI_LAYER_GZIP, DIGEST, 1)
    files = LayerFiles(Blob(Untouchable(), descriptor.digest), descriptor)
    return Layer(0, descriptor, SHA512, history=history, files=files, progress=False)


class Untouchable:
    """A source that nobody may read."""

    def open(self, offset: int, end: int | None) -> io.BytesIO:
        """Fail."""
        raise AssertionError((offset, end))

    def stat(self) -> Stat:
        """Fail."""
        raise AssertionError


def as_words(text: str) -> str:
    """Return an entry of the command line as the display words it: quoted for a shell where it has to be."""
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII) else "'" + text.replace("'", "'\"'\"'") + "'"


# Every place where text from elsewhere can stand, as a function from the text to the page.
PLACES: dict[str, Callable[[str], str]] = {
    "descriptor annotation": lambda t: Descriptor(OCI_LAYER_GZIP, DIGEST, 1, annotations={"k": t})._repr_html_(),
    "descriptor annotation key": lambda t: Descriptor(OCI_LAYER_GZIP, DIGEST, 1, annotations={t: "v"})._repr_html_(),
    "descriptor artifact type": lambda t: Descriptor(OCI_LAYER_GZIP, DIGEST, 1, artifact_type=t)._repr_html_(),
    "descriptor media type": lambda t: Descriptor(t, DIGEST, 1)._repr_html_(),
    "descriptor platform": lambda t: Descriptor(OCI_MANIFEST, DIGEST, 1, Platform("linux", t))._repr_html_(),
    "manifest annotation": lambda t: a_manifest([], annotations={"k": t})._repr_html_(),
    "manifest annotation key": lambda t: a_manifest([], annotations={t: "v"})._repr_html_(),
    "manifest artifact type": lambda t: a_manifest([], artifactType=t)._repr_html_(),
    "layer title": lambda t: a_manifest(
        [entry(annotations={"org.opencontainers.image.title": t})],
    )._repr_html_(),
    "index annotation": lambda t: an_index([], annotations={"k": t})._repr_html_(),
    "index annotation key": lambda t: an_index([], annotations={t: "v"})._repr_html_(),
    "index artifact type": lambda t: an_index([], artifactType=t)._repr_html_(),
    "index platform": lambda t: an_index(
        [entry(OCI_MANIFEST, platform={"os": "linux", "architecture": t})]
    )._repr_html_(),
    "index entry artifact type": lambda t: an_index([entry(OCI_MANIFEST, artifactType=t)])._repr_html_(),
    "config architecture": lambda t: a_config(architecture=t)._repr_html_(),
    "config variant": lambda t: a_config(variant=t)._repr_html_(),
    "config created": lambda t: a_config(created=t)._repr_html_(),
    "config author": lambda t: a_config(author=t)._repr_html_(),
    "config user": lambda t: a_config({"User": t})._repr_html_(),
    "config working directory": lambda t: a_config({"WorkingDir": t})._repr_html_(),
    "config stop signal": lambda t: a_config({"StopSignal": t})._repr_html_(),
    "config port": lambda t: a_config({"ExposedPorts": {t: {}}})._repr_html_(),
    "config variable": lambda t: a_config({"Env": ["NAME=" + t]})._repr_html_(),
    "config label": lambda t: a_config({"Labels": {"k": t}})._repr_html_(),
    "config label key": lambda t: a_config({"Labels": {t: "v"}})._repr_html_(),
    "history created": lambda t: a_config(history=[{"created": t}])._repr_html_(),
    "history created by": lambda t: a_config(history=[{"created_by": t}])._repr_html_(),
    "history comment": lambda t: a_config(history=[{"comment": t}])._repr_html_(),
    "history author": lambda t: a_config(history=[{"author": t}])._repr_html_(),
    "blob media type": lambda t: html.blob(DIGEST, 1, t),
    "remote": lambda t: html.remote(t, "https://registry.test"),
    "listing name": lambda t: html.tag_list(t, (), None),
    "listing entry": lambda t: html.tag_list("registry.test/x", (t,), 1),
    "plan name": lambda t: a_plan(0, name=t)._repr_html_(),
    "image name": lambda t: an_image([], name=t),
    "image user": lambda t: an_image([], {"User": t}),
    "image layer's step": lambda t: an_image([(Descriptor(OCI_LAYER_GZIP, DIGEST, 1), HistoryEntry(created_by=t))]),
    "image layer's comment": lambda t: an_image([(Descriptor(OCI_LAYER_GZIP, DIGEST, 1), HistoryEntry(comment=t))]),
    "diff setting's name": lambda t: a_diff(settings=[(t, "1", None)])._repr_html_(),
    "diff setting": lambda t: a_diff(settings=[("User", None, t)])._repr_html_(),
    "diff step": lambda t: a_diff(steps=[t])._repr_html_(),
    "diff package's name": lambda t: a_diff(packages=[(Package(t, "1", "all", "apk"), None)])._repr_html_(),
    "diff package's version": lambda t: a_diff(packages=[(None, Package("x", t, "all", "apk"))])._repr_html_(),
    "diff path": lambda t: a_diff(files=[(t, 1, None)])._repr_html_(),
    "plan media type": lambda t: a_plan(0, media_type=t)._repr_html_(),
    "listing of files": lambda t: Rows([an_entry(t)])._repr_html_(),
    "listing's link": lambda t: Rows([an_entry("/x", kind=Kind.SYMLINK, link=t.encode())])._repr_html_(),
    "entry": lambda t: an_entry(t)._repr_html_(),
    "entry's owner": lambda t: an_entry("/x", uname=t.encode())._repr_html_(),
    "entry's attribute": lambda t: an_entry("/x", xattrs={t.encode(): b""})._repr_html_(),
    "member": lambda t: Member(path=t.encode(), kind=Kind.FILE)._repr_html_(),
    "members": lambda t: Rows([Member(path=t.encode(), kind=Kind.FILE)])._repr_html_(),
    "layer's step": lambda t: a_layer(history=HistoryEntry(created_by=t))._repr_html_(),
    "layers' step": lambda t: FixedRows([a_layer(history=HistoryEntry(created_by=t))])._repr_html_(),
    "layer annotation": lambda t: a_layer(Descriptor(OCI_LAYER_GZIP, DIGEST, 1, annotations={t: "v"}))._repr_html_(),
    "step": lambda t: HistoryEntry(created_by=t)._repr_html_(),
    "steps": lambda t: FixedRows([HistoryEntry(comment=t)])._repr_html_(),
    "usage's folder": lambda t: Usage((), {"/": 5, t: 3})._repr_html_(),
    "packages": lambda t: FixedRows([Package("x", t, "all", "apk")])._repr_html_(),
    "package": lambda t: Package(t, "1", "all", "apk")._repr_html_(),
    "images' name": lambda t: NamedRows({t: Descriptor(OCI_MANIFEST, DIGEST, 1)})._repr_html_(),
    "ingests": lambda t: Rows([an_ingest(t)])._repr_html_(),
    "ingest": lambda t: an_ingest(t)._repr_html_(),
    "collected ingest": lambda t: Collected((), (an_ingest(t),))._repr_html_(),
    "error's message": lambda t: distsdk.NotFound(t)._repr_html_(),
    "error's code": lambda t: distsdk.NotFound("", codes=(t,))._repr_html_(),
    "error's codes": lambda t: distsdk.NotFound("", codes=(t,) * 30)._repr_html_(),
    "error's data": lambda t: distsdk.DigestMismatch("", expected=t, got="")._repr_html_(),
    "referrers' name": lambda t: html.referrers(t, (), None),
    "referrer": lambda t: html.referrers("x", (Descriptor(OCI_MANIFEST, DIGEST, 1, artifact_type=t),), None),
}
# These show a list of arguments as a shell would take it.
WORDS: dict[str, Callable[[str], str]] = {
    "image command": lambda t: an_image([], {"Cmd": [t]}),
    "image entrypoint": lambda t: an_image([], {"Entrypoint": [t]}),
    "config command": lambda t: a_config({"Cmd": [t]})._repr_html_(),
    "config entrypoint": lambda t: a_config({"Entrypoint": [t]})._repr_html_(),
    "config volume": lambda t: a_config({"Volumes": {t: {}}})._repr_html_(),
}

HOSTILE = [
    "<script>alert(1)</script>",
    "</code></td></table></div><img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script><style>",
    "\" onmouseover=alert(1) x='",
    "&lt;b&gt; &amp; &#60;",
    "<!-- comment", "<![CDATA[x]]>", "<?php ?>",
    "\x1b[31mred\x07\r\n\tnext",
    "abc\u202etxt.exe\u2066\u200b\ufeff",
    "grüße 日本語 שלום",
    "C:\\path\\n",
]  # fmt: skip

#: Not surrogates: no document holds half a pair.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(HOSTILE)


@cache
def harmless(place: str) -> Page:
    """Return the page of a place that shows a letter: no other text may add an element to it."""
    return Page((PLACES | WORDS)[place]("x"))


def check_shown(place: str, text: str) -> None:
    """Check that a place shows a text as `printable` has it, and makes no element and no attribute of it."""
    page = Page((PLACES | WORDS)[place](text))
    assert printable(as_words(text) if place in WORDS else text) in page.text
    assert harmless(place).elements == page.elements
    assert harmless(place).style == page.style


@pytest.mark.parametrize("place", PLACES)
def test_text_from_elsewhere_is_shown_and_never_acted_upon(place: str) -> None:
    """In every place hostile text is read as `printable` has it, and makes no element and no attribute."""
    for text in HOSTILE:
        check_shown(place, text)


@pytest.mark.parametrize("place", WORDS)
def test_arguments_are_shown_as_a_shell_takes_them(place: str) -> None:
    """A list of hostile arguments can be copied into a shell, where it is printable at all."""
    for text in HOSTILE:
        check_shown(place, text)


@pytest.mark.slow
@settings(max_examples=1000)
@given(place=st.sampled_from(sorted(PLACES | WORDS)), text=TEXTS)
def test_any_text_in_any_place_is_shown_and_never_acted_upon(place: str, text: str) -> None:
    """Any text in any place is read as `printable` has it, and makes no element and no attribute."""
    check_shown(place, text)


@pytest.mark.parametrize("text", HOSTILE)
def test_urls_are_shown_without_secrets(text: str) -> None:
    """URLs, of a layer or of a remote, make no element, and show neither a password nor a signature."""
    url = f"https://user:secret@cdn.test/{text}?sig=secret"
    for page in (
        Page(html.remote("registry.test/x", url)),
        shown(Descriptor(OCI_LAYER_GZIP, DIGEST, 1, urls=(url,))),
    ):
        assert "cdn.test" in page.text
        assert "secret" not in page.text


@pytest.mark.parametrize("text", ["x" * 5_000_000, "<" * 100_000, "\U000e0001" * 100_000, "日" * 100_000, "\0" * 9999])
@pytest.mark.parametrize("place", PLACES | WORDS)
def test_long_text_is_cut_visibly(place: str, text: str) -> None:
    """However long a text is, the page stays small, and an ellipsis follows what is shown."""
    source = (PLACES | WORDS)[place](text)
    assert len(source.encode()) <= html.MAX_BYTES
    escaped = printable(text[0])
    # A platform is text already, escaped, when it is cut: maybe within the last escape.
    last = "|".join(re.escape(escaped[:end]) for end in range(1, len(escaped)))
    assert re.search(f"{re.escape(escaped)}(?:{last})?…", Page(source).text)


@pytest.mark.slow
def test_the_largest_values_stay_small() -> None:
    """With the largest text in every field and ten thousand entries in every list, a page has at most 20 kB."""
    t = "<" * 400
    many = {f"{n}{t}": t for n in range(1000)}
    big: dict[str, Any] = {
        "mediaType": f"application/{'x' * 127}",
        "digest": str(SHA512),
        "size": 2**63 - 1,
        "artifactType": t,
        "platform": {"os": t, "architecture": t, "variant": t},
        "annotations": {"org.opencontainers.image.title": t},
    }
    common: dict[str, Any] = {"annotations": many, "artifactType": t, "subject": big}
    config: dict[str, Any] = dict.fromkeys(("User", "WorkingDir", "StopSignal"), t)
    config |= {"Cmd": [t], "Entrypoint": [t], "Volumes": {t: {}}, "ExposedPorts": {t: {}}}
    step = {"created": t, "created_by": t}
    # Rows of several lengths, since what is left of the room for a table depends on them.
    filling = [
        a_config(
            {**config, "Env": [f"{'k' * n}={'v' * n}"] * 99, "Labels": {f"{k:0{n}}": "v" * n for k in range(99)}},
            **dict.fromkeys(("os", "architecture", "variant", "created", "author"), t),
            history=[{"created": "c" * n, "created_by": "b" * n}] * 99,
        )
        for n in range(2, 200, 11)
    ]
    values: list[Displayed] = [
        *filling,
        Descriptor.from_fields({**big, "annotations": many, "urls": [f"https://cdn.test/{t}"] * 1000}),
        a_manifest([big] * 10_000, **{**common, "config": big}),
        a_manifest([{**big, "mediaType": f"a/{n}"} for n in range(10_000)], **common),
        an_index([big] * 10_000, **common),
        a_config(
            {**config, "Env": [f"{t}={t}"] * 1000, "Labels": many},
            **dict.fromkeys(("os", "architecture", "variant", "created", "author"), t),
            history=[step] * 10_000,
            rootfs={"diff_ids": [str(SHA512)] * 10_000},
        ),
        Reference(Locator(".".join(["h" * 62] * 4), "p" * 255), "t" * 128, SHA512),
        a_plan(*[10] * 10_000, name=t, media_type=f"application/{'x' * 127}"),
        *(
            a_diff(
                name=Reference(Locator(".".join(["h" * 62] * 4), "p" * 255), "t" * 128, SHA512),
                settings=[("n" * n, "b" * n, [t])] * 999,
                steps=["s" * n] * 999,
                layers=[Descriptor(OCI_LAYER_GZIP, SHA512, 2**63 - 1)] * 999,
                packages=[(Package("p" * n, "v" * n, t, "rpm"), Package("p" * n, t, t, "rpm"))] * 999,
                files=[("/" + "f" * n, 2**63 - 1, 2**63 - 2)] * 999,
            )
            for n in range(2, 200, 11)
        ),
    ]
    pages = [value._repr_html_() for value in values] + [html.tag_list(t, tuple([t] * 10_000), 10**9)]
    made = HistoryEntry(created_by=t)
    pages.append(html.image(t, SHA512, filling[-1], ((Descriptor(OCI_LAYER_GZIP, SHA512, 2**63 - 1), made),) * 9999, 1))
    assert [] == [len(page.encode()) for page in pages if len(page.encode()) > html.MAX_BYTES]
    for page in pages:
        Page(page)


def test_ten_thousand_layers_show_twenty_and_count_the_rest() -> None:
    """A table has twenty rows, and says how many there are and how many are left out."""
    page = shown(a_manifest([entry(size=n) for n in range(10_000)]))
    assert "10,000 layers, 47.7 MiB" in page.text
    assert "… and 9,980 more" in page.text
    assert [str(n) for n in range(20)] == [row[0] for row in page.rows if row[0].isdigit()]


def test_a_manifest_shows_its_layers() -> None:
    """Each layer has its number, size and whole digest; a media type common to all stands in the summary."""
    page = shown(a_manifest([entry(size=51_361_210), entry(size=2037)]))
    assert ["#", "size", "", "digest"] in page.rows
    assert ["0", "49.0\xa0MiB", "█" * 12, str(DIGEST)] in page.rows
    assert ["1", "2,037\xa0bytes", "▏", str(DIGEST)] in page.rows
    assert ["51,361,210 bytes", "2,037 bytes"] == page.titles
    assert f"2 layers {OCI_LAYER_GZIP}" in page.text
    assert ["layers", "49.0 MiB (51,363,247 bytes)"] in page.rows
    assert ["config", f"{DIGEST} {OCI_CONFIG} 7 bytes"] in page.rows


def test_media_types_that_differ_are_a_column() -> None:
    """Where layers are of several media types, each shows its own; also when the other one is not among those shown."""
    for others in (0, 30):
        page = shown(a_manifest([entry()] * (1 + others) + [entry(DOCKER_LAYER_GZIP)]))
        assert ["#", "media type", "size", "", "digest"] in page.rows
        assert ["0", OCI_LAYER_GZIP, "10\xa0bytes", "█" * 12, str(DIGEST)] in page.rows


def test_an_index_shows_its_platforms() -> None:
    """Each manifest has its platform; what is an attestation says so."""
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    page = shown(
        an_index(
            [
                entry(OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
                entry(OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}, annotations=attestation),
            ]
        )
    )
    assert ["#", "platform", "about", "size", "digest"] in page.rows
    assert ["0", "linux/arm64/v8", "", "10\xa0bytes", str(DIGEST)] in page.rows
    assert ["1", "unknown/unknown", "attestation-manifest", "10\xa0bytes", str(DIGEST)] in page.rows


def test_an_image_config_shows_how_it_is_run_and_built() -> None:
    """Entrypoint, command and environment are there; each step of the history has the number of the layer it left."""
    page = shown(
        a_config(
            {"Entrypoint": ["/entry.sh"], "Cmd": ["sh", "-c", "echo $A"], "Env": ["A=b=c", "EMPTY=", "BARE"]},
            created="2026-01-02T03:04:05Z",
            rootfs={"diff_ids": [str(DIGEST)] * 2},
            history=[
                {"created_by": "ADD rootfs.tar /"},
                {"created_by": "ENV A=b", "empty_layer": True, "comment": "unseen"},
                {"comment": "imported"},
            ],
        )
    )
    assert "linux/amd64, 2 layers" in page.text
    assert ["created", "2026-01-02T03:04:05Z"] in page.rows
    assert ["entrypoint", "/entry.sh"] in page.rows
    assert ["command", "sh -c 'echo $A'"] in page.rows
    assert [["A", "b=c"], ["EMPTY", ""], ["BARE", ""]] == [r for r in page.rows if r[0] in {"A", "EMPTY", "BARE"}]
    assert [["0", "", "ADD rootfs.tar /"], ["", "", "ENV A=b"], ["1", "", "imported"]] == page.rows[-3:]


def test_what_a_document_does_not_say_takes_no_room() -> None:
    """Of an empty config only digest and media type are shown."""
    page = shown(a_config())
    assert [["digest", str(a_config().digest)], ["media type", OCI_CONFIG]] == page.rows
    assert "details" not in page.elements


def test_names_show_their_parts() -> None:
    """A locator and a reference show themselves in the canonical form, and their parts."""
    locator, reference = Locator.parse("redis"), Reference.parse(f"redis:7@{DIGEST}")
    assert [["host", "docker.io"], ["repository", "library/redis"]] == shown(locator).rows
    assert f"Locator {locator}" in shown(locator).text
    files = Reference.parse("s3://bucket/<b>:7")
    assert [["files", "s3://bucket/<b>"]] == shown(files.locator).rows
    assert [["files", "s3://bucket/<b>"], ["tag", "7"]] == shown(files).rows
    assert [["host", "docker.io"], ["repository", "library/redis"], ["tag", "7"], ["digest", str(DIGEST)]] == shown(
        reference
    ).rows
    assert f"Reference {reference}" in shown(reference).text
    assert f"Digest {SHA512}" == shown(SHA512).text


def test_a_blob_shows_what_is_known_without_asking() -> None:
    """An unread blob says that size and media type are not known yet, and its source is not asked."""
    assert [["size", "not known yet"], ["media type", "not known yet"]] == shown(Blob(Untouchable(), DIGEST)).rows
    known = shown(Blob(Untouchable(), DIGEST, size=12_345, media_type=OCI_LAYER_GZIP))
    assert [["size", "12.1 KiB (12,345 bytes)"], ["media type", OCI_LAYER_GZIP]] == known.rows


def test_a_plan_shows_what_is_here_and_what_is_to_come() -> None:
    """In numbers for all of it, and a row for each part that says whether it is here, in part, or missing."""
    page = shown(a_plan(1_000_000, 400_000, 0))
    assert "Plan registry.test/x:1" in page.text
    assert ["to fetch", "1.5 MiB (1,600,500 bytes)"] in page.rows
    assert ["here", "1.3 MiB (1,400,000 bytes)"] in page.rows
    assert ["requests", "3"] in page.rows
    assert [["here"], ["390.6 KiB here"], ["missing"]] == [row[2:3] for row in page.rows[-3:]]
    assert {(OCI_LAYER_GZIP, "976.6\xa0KiB", str(DIGEST))} == {(*row[:2], row[3]) for row in page.rows[-3:]}
    many = shown(a_plan(*range(10_000)))
    assert "10,000 parts" in many.text
    assert "… and 9,980 more" in many.text


def test_an_image_shows_its_layers_with_their_steps() -> None:
    """How it is run, and a row for each layer from the lowest, with the step that made it where that is known."""
    page = Page(
        an_image(
            [
                (Descriptor(OCI_LAYER_GZIP, DIGEST, 10_000_000), HistoryEntry(created_by="ADD rootfs")),
                (Descriptor(OCI_LAYER_GZIP, DIGEST, 5), HistoryEntry(comment="imported")),
                (Descriptor(OCI_LAYER_GZIP, DIGEST, 6), None),
            ],
            {"Entrypoint": ["/x"], "Cmd": ["a b"], "User": "me"},
        )
    )
    assert "Image r.test/x:1" in page.text
    for row in (
        ["platform", "linux/amd64"], ["entrypoint", "/x"], ["command", "'a b'"], ["user", "me"],
        ["download", "12.1 KiB (12,345 bytes)"],
    ):  # fmt: skip
        assert row in page.rows
    assert [
        ["0", "9.5\xa0MiB", "█" * 12, "ADD rootfs", str(DIGEST)],
        ["1", "5\xa0bytes", "▏", "imported", str(DIGEST)],
        ["2", "6\xa0bytes", "▏", "", str(DIGEST)],
    ] == page.rows[-3:]
    assert "3 layers" in page.text


def test_a_diff_shows_what_changed() -> None:
    """Tables of settings, steps, layers, packages, and files, the largest first; none where nothing differs."""
    old, new = (Package("openssl", version, "all", "dpkg") for version in ("1", "2"))
    page = shown(
        a_diff(
            settings=[("Cmd", ["a"], None), ("Env.A", "1", "2")],
            steps=["RUN x"],
            layers=[Descriptor(OCI_LAYER_GZIP, DIGEST, 5)],
            packages=[(old, new), (None, new)],
            files=[("/small", 1, 2), ("/large", None, 20_000), ("/gone", 300, None)],
        )
    )
    assert "Diff 2 settings, 2 packages, 3 files" in page.text
    assert "1 step after 3 in common" in page.text
    assert "1 layer above 2 in common" in page.text
    for row in (
        ["Cmd", '["a"]', ""], ["Env.A", "1", "2"], ["-", "RUN x"], ["-", f"{DIGEST} 5 bytes"],
        ["openssl", "1 all", "2 all"], ["openssl", "", "2 all"],
    ):  # fmt: skip
        assert row in page.rows
    assert [
        ["/large", "added", "", "19.5\xa0KiB"],
        ["/gone", "removed", "300\xa0bytes", ""],
        ["/small", "changed: content", "1\xa0byte", "2\xa0bytes"],
    ] == page.rows[-3:]
    nothing = shown(a_diff())
    assert "details" not in nothing.elements
    assert ["before", "after"] == [row[0] for row in nothing.rows]
    assert "… and 979 more" in shown(a_diff(files=[("/x", 1, 2)] * 999)).text


@pytest.mark.parametrize(
    ("entries", "count", "expected"),
    [
        ((), None, "TagList r.test/x not read yet"),
        ((), 0, "TagList r.test/x 0 entries"),
        (("7",), 1, "TagList r.test/x 1 entry7"),
        (("6", "7"), 2, "TagList r.test/x 2 entries6 7"),
        (("6", "7"), None, "TagList r.test/x 6 7 … not read to the end"),
        (("6", "7"), 1234, "TagList r.test/x 1,234 entries6 7 … and 1,232 more"),
    ],
)
def test_a_listing_says_how_far_it_was_read(entries: tuple[str, ...], count: int | None, expected: str) -> None:
    """A listing tells apart what is not read, what is read in part, and what is all."""
    text = Page(html.tag_list("r.test/x", entries, count)).text
    assert expected.split() == text.split()


def test_a_look_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing values opens no file and no socket, once the style has been read."""
    html.digest(DIGEST)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError((args, kwargs))

    for owner, name in ((builtins, "open"), (io, "open"), (os, "open"), (socket, "socket"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    pages = [make("x") for make in (PLACES | WORDS).values()]
    monkeypatch.undo()
    for page in pages:
        Page(page)


def test_the_style_is_small_scoped_and_follows_the_theme() -> None:
    """The style has less than 2 kB, touches nothing but the display, loads nothing, and knows the dark themes."""
    style = shown(DIGEST).style
    assert len(style.encode()) < 2000
    assert [] == [word for word in ("url(", "@import", "<", "expression") if word in style]
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", re.sub(r"@media [^{]*\{", "", style))
    parts = [part for selector in selectors for part in re.split(r",(?![^(]*\))", selector)]
    assert len(parts) > 5
    assert [] == [part for part in parts if "div.distsdk" not in part]
    for theme in ("--jp-content-font-color1", "html[data-theme=dark]", "body[data-theme=dark]", "body.vscode-dark"):
        assert theme in style
