"""What differs between two images."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from attrs import frozen

from distsdk._moved import moved_names
from distsdk._repr import Displayed
from distsdk._text import counted
from distsdk.analysis.packages import Package, read_packages
from distsdk.layers.member import Kind
from distsdk.spec.digest import Digest
from distsdk.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from distsdk.display.widgets import DiffExplorer
    from distsdk.images.image import Image, Layer
    from distsdk.layers.member import Member
    from distsdk.layers.merged import Entry
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.documents import HistoryEntry, ImageConfig

T = TypeVar("T")

What = Literal["added", "removed", "changed"]
How = Literal["kind", "content", "link", "device", "mode", "owner", "xattrs"]

#: Bytes that are hashed at once.
_STEP = 1024 * 1024

#: What a config has of its history, and of the container that Docker built it in.
_NO_SETTINGS = frozenset({"config", "history", "rootfs", "container", "container_config", "docker_version"})


def _what(before: object, after: object) -> What:
    return "added" if before is None else "removed" if after is None else "changed"


@frozen
class SequenceDiff(Generic[T]):
    """Two sequences that begin with the same.

    Attributes:
        shared: How many they have in common, from the first one on.
        before: What follows in the one.
        after: What follows in the other one.
    """

    shared: int
    before: tuple[T, ...]
    after: tuple[T, ...]


@frozen
class SettingChange(Displayed):
    """A setting of the config that is not the same.

    Attributes:
        name: As the config has it: ``Cmd``, ``Env.PATH``, ``Labels.maintainer``, ``created``.
        before: Its value, as JSON has it; None where there is none.
        after: The same of the other image.
    """

    name: str
    before: object
    after: object

    @property
    def what(self) -> What:
        """Whether it was added, removed, or changed."""
        return _what(self.before, self.after)


@frozen
class PackageChange(Displayed):
    """A package that only one image has, or both in different versions.

    Attributes:
        before: None where it was added.
        after: None where it was removed.
    """

    before: Package | None
    after: Package | None

    @property
    def what(self) -> What:
        """Whether it was added, removed, or changed."""
        return _what(self.before, self.after)

    @property
    def package(self) -> Package:
        """The later one of both."""
        found = self.after or self.before
        assert found is not None  # noqa: S101 - one of them is there
        return found


@frozen
class FileChange(Displayed):
    """What is not the same at a path.

    Attributes:
        path: Where.
        before: What was there; None where it was added.
        after: What is there; None where it was removed.
        how: In what they differ, where it was changed. Times are not looked at, since every build has others.
    """

    path: str
    before: Entry | None
    after: Entry | None
    how: tuple[How, ...] = ()

    @property
    def what(self) -> What:
        """Whether it was added, removed, or changed."""
        return _what(self.before, self.after)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the file before and after; 0 where there is none."""
        return (
            0 if self.before is None else self.before.member.size,
            0 if self.after is None else self.after.member.size,
        )


@frozen(repr=False)
class Diff(Displayed):
    """What differs between two images; all is empty where nothing does.

    Attributes:
        before: The one, pinned to the digest of its manifest.
        after: The other one.
        settings: Of their configs, sorted by name.
        history: The steps they were built by, without regard to when.
        layers: The lowest are shared if they unpack to the same.
        packages: Sorted by manager and name.
        files: Sorted by path; of a folder that is gone, all that was in it.
    """

    before: Reference
    after: Reference
    settings: tuple[SettingChange, ...]
    history: SequenceDiff[HistoryEntry]
    layers: SequenceDiff[Descriptor]
    packages: tuple[PackageChange, ...]
    files: tuple[FileChange, ...]

    def __repr__(self) -> str:
        return f"<Diff {self.before} {self.after} {self.summary}>"

    @property
    def summary(self) -> str:
        """How much differs, in words."""
        parts = ((self.settings, "setting"), (self.packages, "package"), (self.files, "file"))
        return ", ".join(counted(len(changes), noun) for changes, noun in parts)

    def explore(self) -> DiffExplorer:
        """Return an explorer of the changes, part by part: widgets in a notebook, elsewhere a page."""
        from distsdk.display.widgets import DiffExplorer

        return DiffExplorer(self)

    def _repr_html_(self) -> str:
        from distsdk.display.html import diff

        return diff(self)


def compare(
    before: Image, after: Image, *, on_progress: Callable[[int, int], object] = lambda _done, _total: None
) -> Diff:
    """Return what differs between two images: `Image.diff`."""
    left, right = _Side(before), _Side(after)
    same = {(a.number, b.number) for a in before.layers for b in after.layers if _unpack_to_the_same(a, b)}
    shared = _shared(before.layers, after.layers, lambda a, b: (a.number, b.number) in same)
    return Diff(
        _pinned(before),
        _pinned(after),
        _settings(before.config, after.config),
        _fork(before.history, after.history, _shared(before.history, after.history, _is_same_step)),
        _fork(before.manifest.layers, after.manifest.layers, shared),
        _packages(read_packages(before), read_packages(after)),
        tuple(_files(left, right, same, shared, on_progress)),
    )


def _pinned(image: Image) -> Reference:
    return Reference(image.reference.locator, image.reference.tag, image.digest)


def _unpack_to_the_same(a: Layer, b: Layer) -> bool:
    """Return whether two layers do; what a config says of one that was not read whole is not believed."""
    if a.descriptor.digest == b.descriptor.digest:
        return True
    return a.diff_id == b.diff_id and a.files.trust == b.files.trust == "verified"


def _shared(before: tuple[T, ...], after: tuple[T, ...], is_same: Callable[[T, T], bool]) -> int:
    both = zip(before, after, strict=False)
    return next((n for n, (a, b) in enumerate(both) if not is_same(a, b)), min(len(before), len(after)))


def _fork(before: tuple[T, ...], after: tuple[T, ...], shared: int) -> SequenceDiff[T]:
    return SequenceDiff(shared, before[shared:], after[shared:])


def _is_same_step(a: HistoryEntry, b: HistoryEntry) -> bool:
    return (a.created_by, a.comment, a.empty_layer) == (b.created_by, b.comment, b.empty_layer)


# Settings


def _settings(before: ImageConfig, after: ImageConfig) -> tuple[SettingChange, ...]:
    left, right = _flat(before), _flat(after)
    return tuple(
        SettingChange(name, left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    )


def _flat(config: ImageConfig) -> dict[str, object]:
    """Return the settings by name. What is null, false or empty is the same as what is not there."""
    found = {name: value for name, value in config.fields.items() if name not in _NO_SETTINGS and value}
    settings = config.fields.get("config")
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name == "Env":
            pairs = (entry.partition("=") for entry in config.env)
            found |= {f"Env.{variable}": text for variable, _, text in pairs}
        elif isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif value:
            found[name] = value
    return found


# Packages


def _packages(before: tuple[Package, ...], after: tuple[Package, ...]) -> tuple[PackageChange, ...]:
    # Of one name there may be several: of two architectures, or old kernels beside the new one.
    names: defaultdict[tuple[str, str], tuple[list[Package], list[Package]]] = defaultdict(lambda: ([], []))
    both = {*before} & {*after}
    for side, packages in enumerate((before, after)):
        for package in packages:
            if package not in both:
                names[package.manager, package.name][side].append(package)
    changes: list[PackageChange] = []
    for _, (gone, come) in sorted(names.items()):
        for package in gone:
            alike = (p for p in come if p.architecture == package.architecture)
            found = next(alike, come[0] if come else None)
            if found is not None:
                come.remove(found)
            changes.append(PackageChange(package, found))
        changes += [PackageChange(None, package) for package in come]
    return tuple(changes)


# Files


class _Side:
    """An image's files, and what is known of their content without reading it."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.entries = {entry.path: entry for entry in (image.stat("/"), *image.walk())}
        # A hard link may lead to a file of a layer below its own.
        self._layers = {id(member): layer for layer in image.layers for member in layer.members}

    def told(self, entry: Entry) -> Digest | None:
        """Return the digest of a file as a table of contents has it."""
        layer = self._layers.get(id(entry.member))
        return None if layer is None else layer.files.digest(entry.member)


@frozen
class _Unread:
    """A file whose content has to be hashed."""

    side: _Side
    entry: Entry
    algorithm: str

    @property
    def key(self) -> tuple[int, str]:
        """The same for all names of a file."""
        return id(self.entry.member), self.algorithm


def _files(
    left: _Side, right: _Side, same: set[tuple[int, int]], shared: int, on_progress: Callable[[int, int], object]
) -> Iterable[FileChange]:
    changes: dict[str, FileChange] = {}
    undecided: list[tuple[Entry, Entry]] = []
    for path in left.entries.keys() | right.entries.keys():
        a, b = left.entries.get(path), right.entries.get(path)
        if a is None or b is None:
            changes[path] = FileChange(path, a, b)
            continue
        if how := _how(a.member, b.member):
            changes[path] = FileChange(path, a, b, how)
        is_file = a.member.kind is b.member.kind is Kind.FILE
        if is_file and a.member.size == b.member.size > 0 and not _is_same_content(a, b, same, shared):
            undecided.append((a, b))
    for a, b in _different(left, right, undecided, on_progress):
        how = changes[a.path].how if a.path in changes else ()
        changes[a.path] = FileChange(a.path, a, b, ("content", *how))
    return (changes[path] for path in sorted(changes))


def _is_same_content(a: Entry, b: Entry, same: set[tuple[int, int]], shared: int) -> bool:
    """Return whether two files have the same content since they come from the same layers."""
    if a.layer == b.layer < shared:
        return True
    # What is behind a hard link may be in a layer below, and that another one.
    return not (a.hard_link or b.hard_link) and (a.layer, b.layer) in same and a.member == b.member


def _how(a: Member, b: Member) -> tuple[How, ...]:
    """Return in what two differ, as far as their headers tell."""
    if a.kind is not b.kind:
        return ("kind",)
    differences: tuple[tuple[How, bool], ...] = (
        ("content", a.size != b.size),
        ("link", a.link != b.link),
        ("device", a.device != b.device),
        ("mode", a.mode != b.mode and a.kind is not Kind.SYMLINK),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("xattrs", a.xattrs != b.xattrs),
    )
    return tuple(name for name, differs in differences if differs)


def _different(
    left: _Side, right: _Side, pairs: list[tuple[Entry, Entry]], on_progress: Callable[[int, int], object]
) -> Iterable[tuple[Entry, Entry]]:
    """Yield those pairs of files whose content is not the same: by tables of contents, and else by reading them."""
    known: dict[tuple[int, str], Digest] = {}
    unread: dict[tuple[int, str], _Unread] = {}
    algorithms: list[str] = []
    for pair in pairs:
        told = [side.told(entry) for side, entry in zip((left, right), pair, strict=True)]
        algorithm = next((digest.algorithm for digest in told if digest is not None), "sha256")
        algorithms.append(algorithm)
        for side, entry, digest in zip((left, right), pair, told, strict=True):
            file = _Unread(side, entry, algorithm)
            if digest is not None and digest.algorithm == algorithm:
                known[file.key] = digest
            else:
                unread[file.key] = file
    known |= _hashed([file for key, file in unread.items() if key not in known], on_progress)
    for (a, b), algorithm in zip(pairs, algorithms, strict=True):
        if known[id(a.member), algorithm] != known[id(b.member), algorithm]:
            yield a, b


def _hashed(files: list[_Unread], on_progress: Callable[[int, int], object]) -> Mapping[tuple[int, str], Digest]:
    found: dict[tuple[int, str], Digest] = {}
    done, total = 0, sum(file.entry.member.size for file in files)
    if total:
        on_progress(done, total)
    # One image after the other, and each layer from front to back: neighbours come with one request.
    files.sort(key=lambda file: (id(file.side), file.entry.layer, file.entry.member.offset))
    for file in files:
        hasher = Digest.of(b"", file.algorithm).hasher()
        with file.side.image.open(file.entry.path) as content:
            while data := content.read(_STEP):
                hasher.update(data)
                done += len(data)
                on_progress(done, total)
        found[file.key] = Digest(file.algorithm, hasher.hexdigest())
    return found


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = moved_names(__name__)
