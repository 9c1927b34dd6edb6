"""The import paths and the pickles of distsdk 0.1 work until 0.3, with a warning that names the public place."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from attrs import fields, has

import distsdk
from distsdk import _moved

ROOT = Path(distsdk.__file__).parent
PICKLES = sorted((Path(__file__).parents[1] / "data" / "pickles").glob("*.pickle"))

#: Where 0.1 documented its names, or its own examples imported them from, and their public names now.
DOCUMENTED = {
    "distsdk.analysis.attestations": ["Envelope", "Statement", "Subject"],
    "distsdk.analysis.diff": ["Fork=SequenceDiff"],
    "distsdk.analysis.keys": ["PublicKey"],
    "distsdk.analysis.signatures": ["Rejected", "Signature", "Verdict", "verify_signatures"],
    "distsdk.blob": ["Blob", "BlobReader", "Source", "Stat"],
    "distsdk.images": ["Image", "Layer"],
    "distsdk.layers.overlay": ["Entry"],
    "distsdk.model.descriptor": ["Descriptor"],
    "distsdk.model.digest": ["Digest"],
    "distsdk.model.image": ["HistoryEntry", "ImageConfig", "Index", "Manifest"],
    "distsdk.model.platform": ["Platform"],
    "distsdk.model.reference": ["Hint", "Locator", "Object", "Reference"],
    "distsdk.ranges": ["ByteStream"],
    "distsdk.remotes.base": [
        "Catalog",
        "Deletable",
        "Documents=Remote",
        "Pushable",
        "ReferrerLister",
        "Referrers",
        "Remote",
        "Resolver",
        "Settings",
        "Source",
        "TagLister",
        "Wanted=FetchRequest",
        "connect",
    ],
    "distsdk.remotes.registry": ["TagList"],
    "distsdk.remotes.source": ["Reader=UploadReader"],
    "distsdk.store.content": ["Active", "Collected", "Info", "Ingested", "Verified"],
    "distsdk.store.local": ["Store"],
    "distsdk.transfer": ["Advanced", "Finished", "Plan", "Planned", "Step"],
    "distsdk.transfer.copying": ["copy"],
    "distsdk.transfer.powers": ["delete", "referrers"],
    "distsdk.transfer.pulling": ["pull"],
    "distsdk.transfer.pushing": ["attach", "push"],
    "distsdk.transport.http": ["Limits", "Timeouts"],
    "distsdk.transport.record": ["record"],
    "distsdk.transport.replay": ["replay"],
}


@pytest.mark.parametrize(
    ("old", "name", "public"),
    [(old, name.partition("=")[0], name.rpartition("=")[2]) for old, names in DOCUMENTED.items() for name in names],
)
def test_an_old_name_is_its_public_name_with_a_warning(old: str, name: str, public: str) -> None:
    """The import succeeds, and the warning points at the importing line and names `distsdk.<name>`."""
    code = compile(f"from {old} import {name}", __file__, "exec")
    found: dict[str, object] = {}
    expected = rf"^{old}\.{name} is an old name and is removed in 0\.3; use distsdk\.{public}$"
    with pytest.warns(DeprecationWarning, match=expected) as warned:
        exec(code, found)  # noqa: S102 - an import statement
    assert getattr(distsdk, public) is found[name]
    assert {__file__} == {warning.filename for warning in warned}


def test_the_filesystem_of_0_1_is_found() -> None:
    """`distsdk.filesystem:DistFileSystem`, the entry point of 0.1, is the class of `distsdk.fsspec`."""
    from distsdk.fsspec import DistFileSystem

    with pytest.warns(DeprecationWarning, match=r"use distsdk\.fsspec\.DistFileSystem$"):
        assert DistFileSystem is import_module("distsdk.filesystem").DistFileSystem


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("distsdk.remotes.registry", "RegistryRemote"),
        ("distsdk.remotes.layout", "LayoutRemote"),
        ("distsdk.remotes.folder", "FolderRemote"),
    ],
)
def test_an_old_class_of_remotes_names_connect(old: str, name: str) -> None:
    """The classes behind `connect` are private now, and the warning names `distsdk.connect`."""
    with pytest.warns(DeprecationWarning, match=rf"{name} is an old name .* use distsdk\.connect"):
        assert callable(getattr(import_module(old), name))


@pytest.mark.parametrize("old", [old for old in _moved.MOVED if old != "distsdk.model"])
def test_every_moved_module_is_imported(old: str) -> None:
    """Each path of the table can be imported, each of its homes exists, and an unknown name fails as in any module."""
    module = import_module(old)
    for home in _moved.MOVED[old]:
        import_module(f"distsdk.{home}")
    with pytest.raises(AttributeError, match=f"module '{old}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        import_module(f"{old}.nothing")


def test_every_renamed_name_is_found() -> None:
    """Each new name of the table exists in its module."""
    for module, name in _moved.RENAMED.values():
        assert hasattr(import_module(f"distsdk.{module}"), name), (module, name)


def test_no_module_of_the_package_is_in_the_way_of_the_table() -> None:
    """A module that exists and is in the table answers for its old names itself."""
    for old in _moved.MOVED:
        base = ROOT.parent.joinpath(*old.split("."))
        path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
        if path is not None:
            assert "__getattr__ = moved_names(__name__)" in path.read_text(encoding="utf-8"), old


def test_the_package_uses_no_old_path() -> None:
    """No module of distsdk imports from a path that only the table finds."""
    gone = {old for old in _moved.MOVED if not ROOT.parent.joinpath(*old.split(".")).with_suffix(".py").is_file()}
    gone -= {"distsdk.images", "distsdk.transfer"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in gone, path


@pytest.mark.slow
def test_the_table_is_not_loaded_by_importing_distsdk() -> None:
    """`import distsdk` reads no table of old paths, and neither does a module that no path leads to."""
    loaded = "print('distsdk._moved' in sys.modules)"
    program = f"import sys, distsdk; {loaded}; import json; {loaded}"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ["False", "False"] == done.stdout.split()


def check_fields(value: Any, seen: set[int]) -> None:  # noqa: ANN401 - any value of a pickle
    """Check that each attrs value in a value has all its fields."""
    if id(value) in seen or isinstance(value, type):
        return
    seen.add(id(value))
    if has(type(value)):
        for field in fields(type(value)):
            check_fields(getattr(value, field.name), seen)
    for inner in vars(value).values() if hasattr(value, "__dict__") else ():
        check_fields(inner, seen)
    for slot in [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]:
        if type(value).__module__.startswith("distsdk") and slot != "__weakref__":
            check_fields(getattr(value, slot, None), seen)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", PICKLES, ids=lambda path: path.stem)
def test_a_pickle_of_0_1_is_read(path: Path) -> None:
    """The value has the public class and all its fields, and a pickle of it is read back."""
    value: Any = pickle.loads(path.read_bytes())  # noqa: S301 - our own bytes
    kinds: dict[str, type] = {
        "error": distsdk.NotFound,
        "config": distsdk.ImageConfig,
        "document": distsdk.Blob,
        "files": distsdk.LayerFiles,
        "filesystem": import_module("distsdk.fsspec").DistFileSystem,
        "layout": distsdk.Remote,
        "stored": distsdk.Blob,
        "tags": distsdk.TagList,
    }
    expected: Any = kinds.get(path.stem) or getattr(distsdk, path.stem.capitalize())
    assert isinstance(value, expected), type(value)
    assert repr(value)
    check_fields(value, set())
    assert isinstance(pickle.loads(pickle.dumps(value)), expected)  # noqa: S301 - our own bytes
    if path.stem == "document":
        assert b'"schemaVersion"' in value.read()


@pytest.mark.slow
def test_a_pickle_of_0_1_is_read_by_a_new_process() -> None:
    """Nothing of distsdk needs to be imported before the pickle."""
    program = f"import pickle; print(type(pickle.load(open({str(PICKLES[0])!r}, 'rb'))))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True)
    assert "Blob" in done.stdout
