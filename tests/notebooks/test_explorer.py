"""Explorers in a kernel: widgets that a front end would show, and bars that the kernel's own thread tells."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(code: str, **variables: str) -> Any:  # noqa: ANN401 - nbformat has no types
    """Return a notebook of one cell with its outputs and the widgets that it left."""
    spec = importlib.util.spec_from_file_location("progress", ROOT / "tests" / "notebooks" / "test_progress.py")
    assert spec is not None
    assert spec.loader is not None
    progress = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(progress)
    return progress.executed(code, **variables)


def widgets(notebook: Any, name: str) -> list[dict[str, Any]]:  # noqa: ANN401 - as above
    """Return the state of the widgets that have a class."""
    found = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    return [w["state"] for w in found.values() if f"distsdk-{name}" in w["state"].get("_dom_classes", ())]


def test_an_image_is_explored(tmp_path: Path) -> None:
    """The explorer is a widget; its button reads the layers with a bar, and what it shows reaches the front end."""
    code = """\
import distsdk
image = distsdk.image("redis:7", platform="linux/amd64")
explorer = image.explore()
display(explorer)
print(explorer._read.description)
explorer._read.click()
explorer._path.value = "/etc/os-release"
"""
    notebook = executed(code, XDG_CACHE_HOME=str(tmp_path))
    cell = notebook.cells[0]
    [shown] = [output["data"] for output in cell.outputs if "data" in output]
    assert WIDGET in shown
    assert "<ImageExplorer docker.io/library/redis:7 linux/amd64 />" == shown["text/plain"]
    assert "Read 6 layers" in str(cell.outputs)
    assert not [output for output in cell.outputs if output.get("name") == "stderr"]
    [bar] = widgets(notebook, "progress")
    assert 5_450_243 == bar["max"] == bar["value"]
    [files] = widgets(notebook, "files")
    assert any(label.startswith("os-release ") for label in files["_options_labels"])
    [preview] = widgets(notebook, "preview")
    assert "PRETTY_NAME=&quot;Debian" in preview["value"]
    [code_shown] = widgets(notebook, "code")
    assert "image.read_text(&#x27;/etc/os-release&#x27;)" in code_shown["value"]


def test_tags_and_a_store_are_widgets_too() -> None:
    """A watch follows a pull of another thread while the kernel is free, and stops."""
    code = """\
import asyncio, threading
import distsdk
display(distsdk.connect("redis").explore())
store = distsdk.Store("store")
watch = store.watch()
display(watch)
begun, go_on = threading.Event(), threading.Event()
def chunks():
    yield b"x" * 3_000_000
    begun.set()
    go_on.wait(60)
thread = threading.Thread(target=lambda: store.ingest(chunks(), "a-key"))
thread.start()
await asyncio.to_thread(begun.wait, 60)
while "a-key" not in watch._table.value:
    await asyncio.sleep(0.01)
print("seen")
go_on.set()
thread.join()
while "a-key" in watch._table.value:
    await asyncio.sleep(0.01)
watch._stop.click()
print("gone", watch.watching)
"""
    notebook = executed(code)
    outputs = notebook.cells[0].outputs
    assert 2 == sum(WIDGET in output.get("data", {}) for output in outputs)
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "seen\ngone False\n" == printed
    assert not [output for output in outputs if output.get("name") == "stderr"]
    [tags] = widgets(notebook, "files")
    assert "7" in tags["_options_labels"]
    [ingests] = widgets(notebook, "ingests")
    assert "0 ingests under way" in ingests["value"]
