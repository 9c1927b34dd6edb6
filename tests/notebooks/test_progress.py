"""Progress in a notebook: bars that are widgets, told by the thread of the cell, which is what kernels show."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def executed(code: str, **variables: str) -> Any:  # noqa: ANN401 - nbformat has no types
    """Return a notebook of one cell with its outputs and the widgets that it left."""
    spec = importlib.util.spec_from_file_location("execute", ROOT / "tests" / "notebooks" / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])  # type: ignore[no-untyped-call] # it is not annotated
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            kernel_manager_class=execute.ThisInterpreter,
            extra_arguments=["--log-level=ERROR"],
            timeout=600,
        )
        private = {"IPYTHONDIR": scratch, "JUPYTER_CONFIG_DIR": scratch, "JUPYTER_DATA_DIR": scratch}
        replay = {"DISTSDK_REPLAY": str(ROOT / "cassettes" / "redis")}
        client.execute(env={**os.environ, **private, **replay, **variables}, cwd=scratch)
    return notebook


def bars(notebook: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    """Return the state of the progress bars that are shown."""
    widgets = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    return [w["state"] for w in widgets.values() if w["model_name"] == "FloatProgressModel"]


def test_a_pull_shows_a_bar_that_gets_full() -> None:
    """It is a widget, under the image's name, and says at the end that all bytes are here."""
    code = """\
import distsdk
descriptor = distsdk.pull("redis:7", "store", platform="linux/amd64", progress=True)
plan = distsdk.pull("redis:7", "store", platform="linux/amd64", plan=True)
print(plan.size, plan.missing)
"""
    notebook = executed(code)
    [bar] = bars(notebook)
    size, missing = map(int, notebook.cells[0].outputs[-1]["text"].split())
    assert 0 == missing
    assert size == bar["max"] == bar["value"]
    assert "success" == bar["bar_style"]
    assert not [output for output in notebook.cells[0].outputs if output.get("name") == "stderr"]


def test_a_save_shows_a_bar_too() -> None:
    """So does one blob."""
    code = """\
import distsdk
remote = distsdk.connect("redis")
layer = remote.manifest("7", platform="linux/amd64").layers[0]
remote.fetch(layer).save("layer", progress=True)
print(layer.size)
"""
    notebook = executed(code)
    [bar] = bars(notebook)
    assert int(notebook.cells[0].outputs[-1]["text"]) == bar["max"] == bar["value"]


def test_unpacking_shows_a_bar_too() -> None:
    """It counts the layers' bytes as they come over the wire."""
    code = """\
import distsdk
image = distsdk.image("redis:7", platform="linux/amd64")
image.unpack("rootfs", progress=True)
print(sum(layer.size for layer in image.layers))
"""
    notebook = executed(code)
    [bar] = bars(notebook)
    assert int(notebook.cells[0].outputs[-1]["text"]) == bar["max"] == bar["value"]
    assert "success" == bar["bar_style"]


def test_a_variable_says_no() -> None:
    """There is no bar then."""
    code = 'import distsdk; distsdk.pull("redis:7", "store", platform="linux/amd64", progress=True)'
    assert [] == bars(executed(code, DISTSDK_DISABLE_PROGRESS="1"))
