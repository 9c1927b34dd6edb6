"""Imports point one way, and `import distsdk` costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import distsdk

ROOT = Path(distsdk.__file__).parent

#: What each part may import of distsdk: docs/decisions/0001-package-layout.md. A part may always import from itself.
GROUND = {"errors", "_moved", "_text", "_secrets", "_warnings", "_files", "_locks", "_progress", "_repr"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, GROUND),
    "spec": GROUND,
    "content": GROUND | {"spec"},
    "layout": GROUND | {"spec", "content"},
    "transport": GROUND | {"spec"},
    "trust": GROUND | {"spec", "content"},
    "layers": GROUND | {"spec", "content"},
}
MAY_IMPORT["store"] = MAY_IMPORT["layout"] | {"layout"}
MAY_IMPORT["remotes"] = MAY_IMPORT["layout"] | {"layout", "transport"}
MAY_IMPORT["transfer"] = MAY_IMPORT["remotes"] | {"remotes", "store", "trust"}
MAY_IMPORT["images"] = MAY_IMPORT["transfer"] | {"transfer", "layers"}
MAY_IMPORT["fsspec"] = MAY_IMPORT["analysis"] = MAY_IMPORT["images"] | {"images"}
MAY_IMPORT["display"] = MAY_IMPORT["analysis"] | {"analysis", "fsspec"}
# These two see everything, the public face included, and nothing else imports them.
MAY_IMPORT["cli"] = MAY_IMPORT["testing"] = MAY_IMPORT["display"] | {"display", ""}
# The package itself names its public face; `python -m distsdk` is the command line.
MAY_IMPORT[""] = MAY_IMPORT["display"] | {"display"}
MAY_IMPORT["__main__"] = MAY_IMPORT["cli"] | {"cli"}

#: The one name of the public face that every part may ask for: it is a literal there, and brings nothing along.
VERSION = "distsdk.__version__"

#: Calls that a person expects on an object although they lie above it: the method, and the module it imports inside.
UPWARD = {
    ("_repr_html_", "distsdk.display.html"),
    ("_render_traceback_", "distsdk.display.tracebacks"),
    ("diff", "distsdk.analysis.diff"),
    ("packages", "distsdk.analysis.packages"),
    ("partitions", "distsdk.analysis.partitions"),
    ("to_pandas", "distsdk.analysis.tables"),
    ("plot", "distsdk.display.plots"),
    ("explore", "distsdk.display.widgets"),
    ("watch", "distsdk.display.widgets"),
    # What these return.
    ("TYPE_CHECKING", "distsdk.analysis.diff"),
    ("TYPE_CHECKING", "distsdk.analysis.packages"),
    ("TYPE_CHECKING", "distsdk.analysis.partitions"),
    ("TYPE_CHECKING", "distsdk.display.widgets"),
}

#: Modules outside distsdk that a part never touches; `os.environ` stands for every way of reading the environment.
NEVER = {
    "errors": {"attrs", "requests", "urllib3", "os.environ", "time"},
    "spec": {"requests", "urllib3", "http", "socket", "urllib.request", "os.environ", "time"},
    "content": {"requests", "urllib3"},
    "layout": {"requests", "urllib3", "fsspec", "os.environ"},
    "trust": {"requests", "urllib3", "os.environ", "time"},
    "layers": {"requests", "urllib3"},
}

#: What `import distsdk` leaves alone, and much else with it.
HEAVY = {"attr", "attrs", "click", "dask", "fsspec", "ipywidgets", "pandas", "requests", "tqdm", "urllib3"}


class Import(NamedTuple):
    """An imported name, the function it is imported in, and the line.

    The function is "" for the module itself, and TYPE_CHECKING where only type checkers see the import.
    """

    name: str
    function: str
    line: int


def module_name(path: Path) -> str:
    """Return the dotted name of the module in this file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def part(module: str) -> str:
    """Return the part of distsdk that a module belongs to: "model" for `distsdk.spec.digest`, "" for the root."""
    return f"{module}.".split(".")[1]


def imports(module: str, path: Path) -> list[Import]:
    """Return everything a module imports, at its top or inside functions, for types or for real, as absolute names."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, function, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".rstrip(".")
            for alias in node.names:
                # `from distsdk.spec import digest` imports a module, `from distsdk.errors import NotFound` a name.
                inner = f"{base}.{alias.name}"
                is_module = inner in MODULES or inner in {"os.environ", "urllib.request", VERSION}
                found.append(Import(inner if is_module else base, function, node.lineno))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found.extend(Import(name, function, node.lineno) for name in names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.environb"}:
            found.append(Import("os.environ", function, node.lineno))
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside = "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    """A module imports only parts below its own; the exceptions are methods, each named in UPWARD."""
    assert part(module) in MAY_IMPORT, f"{module} belongs to no part; a new part is written down in a decision"
    allowed = MAY_IMPORT[part(module)] | {part(module)}
    wrong = [
        f"line {found.line}: {found.name}"
        for found in imports(module, MODULES[module])
        if found.name.split(".")[0] == "distsdk"
        and part(found.name) not in allowed
        and found.name != VERSION
        and (found.function, found.name) not in UPWARD
    ]
    assert [] == wrong


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) in NEVER])
def test_a_part_never_touches_what_it_is_to_be_free_of(module: str) -> None:
    """Values know no network, no clock and no environment; blobs and layers know no HTTP library."""
    wrong = [
        f"line {found.line}: {found.name}"
        for found in imports(module, MODULES[module])
        for never in NEVER[part(module)]
        if found.name == never or found.name.startswith(f"{never}.")
    ]
    assert [] == wrong


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import distsdk.cli", [("distsdk.cli", "")]),
        ("from distsdk.errors import NotFound", [("distsdk.errors", "")]),
        ("from distsdk import errors", [("distsdk.errors", "")]),
        ("from distsdk import __version__", [("distsdk.__version__", "")]),
        ("from distsdk import connect", [("distsdk", "")]),
        ("from . import errors", [("distsdk.errors", "")]),
        ("from .errors import NotFound", [("distsdk.errors", "")]),
        ("def f():\n    from distsdk.display.html import table", [("distsdk.display.html", "f")]),
        ("if TYPE_CHECKING:\n    from distsdk import errors", [("distsdk.errors", "TYPE_CHECKING")]),
        ("import importlib\nimportlib.import_module('distsdk.cli')", [("importlib", ""), ("distsdk.cli", "")]),
        ("import os\nx = os.environ['HOME']", [("os", ""), ("os.environ", "")]),
        ("from os import environ", [("os.environ", "")]),
    ],
)
def test_the_reader_of_imports_sees_every_way(tmp_path: Path, statement: str, expected: list[tuple[str, str]]) -> None:
    """However an import is written, these tests see it."""
    path = tmp_path / "sample.py"
    path.write_text(statement)
    assert expected == [(found.name, found.function) for found in imports("distsdk.sample", path)]


def test_importing_distsdk_imports_nothing_heavy() -> None:
    """`import distsdk` leaves the libraries for HTTP, tables, widgets and the command line alone."""
    script = "import sys; before = set(sys.modules); import distsdk; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "distsdk" in loaded
    assert set() == loaded & HEAVY


def test_every_public_name_is_there() -> None:
    """The list of public names is sorted and has no name twice, and each can be had."""
    assert sorted(set(distsdk.__all__)) == list(distsdk.__all__)
    assert [] == [name for name in distsdk.__all__ if not hasattr(distsdk, name)]


def test_dir_shows_the_public_names_before_they_are_loaded() -> None:
    """Completion offers every public name, sorted."""
    names = dir(distsdk)
    assert sorted(names) == names
    assert set(distsdk.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that is not there fails as in any module."""
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(distsdk, name)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_first(module: str) -> None:
    """No module needs another one to be imported before it."""
    run = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    assert (0, "") == (run.returncode, run.stderr)
