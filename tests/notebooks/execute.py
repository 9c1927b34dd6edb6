"""Execute the notebooks from cassettes, and write what they show or compare it with what is committed.

::

    python tests/notebooks/execute.py             # write
    python tests/notebooks/execute.py --check     # compare; ends with 1 and a diff where something differs

Text and HTML of every output count, and so do the numbers in them. What differs from run to run is taken away by three
rules: `without_widgets`, always, and `without_speed` and `without_pixels`, for the comparison. A notebook whose outputs
compare as equal is not written again.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets import default

ROOT = Path(__file__).parents[2]

#: Seconds that one cell may take.
CELL_TIMEOUT = 600

PICTURE = re.compile(r'("image/png": ")[^"]*(")')
SPEED = re.compile(r"[0-9,]+\.[0-9]+ s, [0-9,]+\.[0-9]+ MB/s")
WIDGET = "application/vnd.jupyter.widget-view+json"


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels of the running interpreter, whatever kernels are installed."""

    @default("kernel_spec_manager")
    def _own_kernel_only(self) -> KernelSpecManager:
        return KernelSpecManager(parent=self, kernel_dirs=[])


def without_widgets(outputs: list[Any]) -> list[Any]:
    """Leave out widgets: of an explorer its HTML stays; of a progress bar, which is over, nothing is left to see."""
    left = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data and "text/html" not in data:
            continue
        data.pop(WIDGET, None)
        left.append(output)
    return left


def without_pixels(text: str) -> str:
    """Replace pictures: fonts, and those who draw with them, differ; that there is one counts."""
    return PICTURE.sub(r"\1…\2", text)


def without_speed(text: str) -> str:
    """Replace the time that a transfer took, and its speed."""
    return SPEED.sub("… s, … MB/s", text)


def execute(notebook: Any, cassettes: Path) -> Any:  # noqa: ANN401 - nbformat has no types
    """Return a notebook with its outputs anew; the kernel is this interpreter.

    Raises:
        CellExecutionError: A cell failed.
    """
    fresh = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(
            fresh,
            coalesce_streams=True,  # one output, however the kernel cuts it
            kernel_name="python3",
            kernel_manager_class=ThisInterpreter,
            extra_arguments=["--log-level=ERROR"],  # or it warns that loopback is not encrypted
            timeout=CELL_TIMEOUT,
            record_timing=False,
            store_widget_state=False,
        )
        private = {"IPYTHONDIR": scratch, "JUPYTER_CONFIG_DIR": scratch, "JUPYTER_DATA_DIR": scratch}
        private |= {"XDG_CACHE_HOME": f"{scratch}/caches", "DISTSDK_STORE": f"{scratch}/store"}
        client.execute(env={**os.environ, **private, "DISTSDK_REPLAY": str(cassettes.resolve())}, cwd=scratch)
    for cell in fresh.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = without_widgets(cell.outputs)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    fresh.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return fresh


def difference(committed: str, executed: str, name: str) -> list[str]:
    """Return the lines in which two notebooks differ, but for their speed and their pixels."""
    old, new = (without_pixels(without_speed(text)).splitlines() for text in (committed, executed))
    return list(difflib.unified_diff(old, new, f"{name} as committed", f"{name} as executed", lineterm=""))


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description="Execute the notebooks from cassettes.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--cassettes", type=Path, default=ROOT / "cassettes", help="played; those of this repository")
    options = parser.parse_args()
    code = 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        committed = path.read_text(encoding="utf-8")
        try:
            notebook = execute(nbformat.reads(committed, as_version=4), options.cassettes)  # type: ignore[no-untyped-call] # it is not annotated
        except CellExecutionError as error:
            print(f"{path.name}: a cell failed\n{error}")
            code = 1
            continue
        executed = nbformat.writes(notebook) + "\n"  # type: ignore[no-untyped-call] # nor is this
        lines = difference(committed, executed, path.name)
        if lines and options.check:
            print("\n".join(lines))
            code = 1
        elif lines:
            path.write_text(executed, encoding="utf-8")
        print(f"{path.name}: {'differs' if options.check else 'written'}" if lines else f"{path.name}: as committed")
    return code


if __name__ == "__main__":
    sys.exit(main())
