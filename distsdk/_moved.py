"""Import paths of distsdk 0.1: each still works until 0.3, with a `DeprecationWarning` that names the public place.

Pickles written by 0.1 are found again by the same table. A path that moved is asked for only after Python's own finders
have found no such module (see `distsdk.__init__`); a module that remains, but lost names, sets
`__getattr__ = moved_names(__name__)`. Two names are lost, as modules have them now:
`distsdk.images.image` and `distsdk.transfer.pull`; the functions are `distsdk.image` and `distsdk.pull`.
"""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

#: Each module path of 0.1 that moved or lost names, and the modules that define these names now, in order of search.
MOVED = {
    "distsdk.analysis.attestations": ("trust.attestations",),
    "distsdk.analysis.diff": (),
    "distsdk.analysis.keys": ("trust.keys",),
    "distsdk.analysis.signatures": ("trust.signatures", "transfer.verify", "trust.attestations"),
    "distsdk.blob": ("content.blob", "content.reader", "content.source", "_files", "_progress"),
    "distsdk.filesystem": ("fsspec",),
    "distsdk.images": ("images.image", "images.artifact", "images.content"),
    "distsdk.layers.deflate": ("layers.gzip_seek",),
    "distsdk.layers.index": ("layers.seek_index",),
    "distsdk.layers.lock": ("_locks",),
    "distsdk.layers.overlay": ("layers.merged", "layers.layer"),
    "distsdk.layers.target": ("layers.rootfs",),
    "distsdk.model": (),
    "distsdk.model.descriptor": ("spec.descriptor",),
    "distsdk.model.digest": ("spec.digest",),
    "distsdk.model.fields": ("spec.strict_json",),
    "distsdk.model.image": ("spec.documents", "spec.strict_json"),
    "distsdk.model.media": ("spec.media_types",),
    "distsdk.model.platform": ("spec.platform",),
    "distsdk.model.reference": ("spec.reference",),
    "distsdk.model.shown": ("_repr",),
    "distsdk.model.wording": ("_text",),
    "distsdk.ranges": ("content.parallel", "content.source"),
    "distsdk.remotes.base": (
        "content.protocols",
        "remotes.remote",
        "remotes.connect",
        "remotes.settings",
        "content.request",
        "content.source",
    ),
    "distsdk.remotes.folder": (),
    "distsdk.remotes.layout": (),
    "distsdk.remotes.registry": ("remotes.tag_list", "remotes.listing"),
    "distsdk.remotes.source": ("content.uploads",),
    "distsdk.store.content": ("store.reports",),
    "distsdk.store.local": ("store.store",),
    "distsdk.transfer": ("transfer.events", "transfer.pull"),
    "distsdk.transfer.copying": ("transfer.copy",),
    "distsdk.transfer.crew": ("transfer.workers",),
    "distsdk.transfer.powers": ("transfer.operations",),
    "distsdk.transfer.pulling": ("transfer.pull",),
    "distsdk.transfer.pushing": ("transfer.push",),
    "distsdk.transfer.sending": ("transfer.upload_set",),
    "distsdk.transport.http": ("transport.client", "transport.response", "transport.settings", "transport.failures"),
    "distsdk.transport.record": ("transport.cassette.record",),
    "distsdk.transport.replay": ("transport.cassette.replay",),
}

#: Names of 0.1 that changed: the module path of 0.1 and the old name, then the module and the new name.
RENAMED = {
    ("distsdk.analysis.diff", "Fork"): ("analysis.diff", "SequenceDiff"),
    ("distsdk.layers.index", "Index"): ("layers.seek_index", "SeekIndex"),
    ("distsdk.layers.lock", "Lock"): ("_locks", "ForkSafeLock"),
    ("distsdk.layers.overlay", "Layer"): ("layers.merged", "LayerEntries"),
    ("distsdk.layers.target", "Target"): ("layers.rootfs", "RootfsWriter"),
    ("distsdk.model.shown", "Named"): ("_repr", "NamedRows"),
    ("distsdk.model.shown", "Shown"): ("_repr", "Displayed"),
    ("distsdk.model.shown", "ShownAsText"): ("_repr", "DisplayedAsText"),
    ("distsdk.remotes.base", "Documents"): ("remotes.remote", "Remote"),
    ("distsdk.remotes.base", "Wanted"): ("content.request", "FetchRequest"),
    ("distsdk.remotes.folder", "FolderRemote"): ("_moved", "folder_remote"),
    ("distsdk.remotes.layout", "LayoutRemote"): ("_moved", "layout_remote"),
    ("distsdk.blob", "_MemorySource"): ("content.source", "MemorySource"),
    ("distsdk.images", "_Meter"): ("images.content", "Meter"),
    ("distsdk.images", "_Shelf"): ("images.content", "ContentSource"),
    ("distsdk.images", "_MeteredSource"): ("images.content", "MeteredSource"),
    ("distsdk.remotes.registry", "_connect_again"): ("_moved", "connect_again"),
    ("distsdk.remotes.registry", "RegistryRemote"): ("remotes.registry", "RegistryFetcher"),
    ("distsdk.remotes.source", "Reader"): ("content.uploads", "UploadReader"),
    ("distsdk.store.local", "_File"): ("store.store", "_OwnFile"),
    ("distsdk.transfer.crew", "Crew"): ("transfer.workers", "WorkerPool"),
    ("distsdk.transfer.sending", "Cargo"): ("transfer.upload_set", "UploadSet"),
    ("distsdk.transfer.sending", "Taking"): ("transfer.upload_set", "PushTarget"),
    ("distsdk.transport.http", "Answer"): ("transport.response", "Response"),
    ("distsdk.transport.http", "RateLimit"): ("transport.response", "RateLimitStatus"),
}


def connect_again(locator: object, portable: dict[str, Any]) -> object:
    """Return the remote of a registry that 0.1 pickled.

    Args:
        locator: The repository.
        portable: The settings that 0.1 wrote into a pickle.
    """
    return _load("distsdk").Remote(_load("distsdk.remotes.registry")._fetcher_again(locator, portable))


def folder_remote(*fields: Any) -> object:  # noqa: ANN401 - as 0.1 pickled them
    """Return the remote of an OCI layout in a directory, from the arguments of 0.1's class.

    Args:
        fields: The arguments of `FolderFetcher`.
    """
    return _load("distsdk").Remote(_load("distsdk.remotes.folder").FolderFetcher(*fields))


def layout_remote(*fields: Any) -> object:  # noqa: ANN401 - as 0.1 pickled them
    """Return the remote of an OCI layout, from the arguments of 0.1's class.

    Args:
        fields: The arguments of `LayoutFetcher`.
    """
    return _load("distsdk").Remote(_load("distsdk.remotes.layout").LayoutFetcher(*fields))


def saved_fields(value: Any) -> dict[str, object]:  # noqa: ANN401 - any attrs value
    """Return the fields of an attrs value, for a pickle of any protocol."""
    return {field.name: getattr(value, field.name) for field in type(value).__attrs_attrs__}


def restore_fields(value: Any, state: Any, renamed: dict[str, str] | None = None) -> None:  # noqa: ANN401 - any attrs value
    """Fill an attrs value from a pickle; a field that a pickle of 0.1 lacks gets its default.

    Args:
        value: A new value without fields.
        state: The pickled fields: a dictionary, or a pair whose second item is one.
        renamed: Fields with another name in 0.1: the name, and the name in 0.1.
    """
    known = state if isinstance(state, dict) else state[1]
    for field in type(value).__attrs_attrs__:
        name = field.name if field.name in known else (renamed or {}).get(field.name, field.name)
        default = getattr(field.default, "factory", lambda default=field.default: default)
        object.__setattr__(value, field.name, known[name] if name in known else default())


class _Loader:
    """Makes an empty module that finds the names of a module of 0.1 where they are now."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the module to the import machinery."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its `__getattr__`."""
        module.__doc__ = f"An import path of distsdk 0.1, which works until 0.3. Import from {_door(module.__name__)}."
        module.__getattr__ = moved_names(module.__name__)  # type: ignore[method-assign]


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module path of 0.1, `None` for any other path.

    Args:
        name: The absolute name of a module, such as "distsdk.blob".
    """
    if name not in MOVED:
        return None
    return ModuleSpec(name, _Loader(), is_package=name == "distsdk.model")  # type: ignore[arg-type]


def moved_names(old: str) -> Callable[[str], object]:
    """Return the `__getattr__` of a module that finds the names it had in 0.1.

    Args:
        old: The path of the module in 0.1, a key of `MOVED`.
    """

    def __getattr__(name: str) -> object:
        homes = [(module, name) for module in MOVED[old]]
        for module, new in [RENAMED[old, name]] if (old, name) in RENAMED else homes:
            home = _load(f"distsdk.{module}")
            if new in vars(home) and not new.startswith("__"):
                value: object = vars(home)[new]
                # The caller, and not this module. Python's frames of imports are left out of the count.
                warnings.warn(_advice(old, name, new, value), DeprecationWarning, stacklevel=2)
                return value
        message = f"module {old!r} has no attribute {name!r}"
        raise AttributeError(message)

    return __getattr__


def _advice(old: str, name: str, new: str, value: object) -> str:
    if name.startswith("_"):
        return f"a pickle of distsdk 0.1 names {old}.{name}, which 0.3 no longer reads; write the pickle again before"
    if name.endswith("Remote") and name != "Remote":
        return f"{old}.{name} is an old name and is removed in 0.3; use distsdk.connect, which returns a distsdk.Remote"
    door = _load(_door(old))
    if new in door.__all__ and getattr(door, new) is value:
        return f"{old}.{name} is an old name and is removed in 0.3; use {door.__name__}.{new}"
    return f"{old}.{name} is an old name without a public one and is removed in 0.3; distsdk promises only public names"


def _door(old: str) -> str:
    return "distsdk.fsspec" if old == "distsdk.filesystem" else "distsdk"


def _load(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]
