"""Tracebacks of distsdk's errors in a real kernel: one frame of the user's code, and the message."""

from __future__ import annotations

import re
from typing import cast

import nbformat
import pytest
from nbclient import NotebookClient

SETUP = """
import distsdk
import pandas as pd
from distsdk.testing import Registry

registry = Registry().__enter__()
registry.add_image("x", "1", layers=[b"not an archive"])
x = registry.locator("x")
"""
#: A cell, the line of it that is shown, the error, and the last line.
CELLS = [
    ('1 + 1\ndistsdk.image(f"{x}:nope")', 'distsdk.image(f"{x}:nope")', "NotFound", r".*/x:nope does not exist .*"),
    (
        'for chunk in distsdk.connect(x).fetch(f"sha256:{0:064}").stream():\n    pass',
        'for chunk in distsdk.connect(x).fetch(f"sha256:{0:064}").stream():',
        "NotFound",
        r".* does not exist .*",
    ),
    (
        'image = distsdk.image(f"{x}:1", platform="linux/amd64")\nnames = (entry.name for entry in image.walk())\nlist(names)',
        "names = (entry.name for entry in image.walk())",
        "MalformedDocument",
        r".*",
    ),
    (
        'pd.Series(["nope"]).apply(lambda tag: distsdk.image(f"{x}:{tag}"))',
        'pd.Series(["nope"]).apply(lambda tag: distsdk.image(f"{x}:{tag}"))',
        "NotFound",
        r".*/x:nope does not exist .*",
    ),
    ('distsdk.connect("127.0.0.1:1/x").fetch("1")', 'distsdk.connect("127.0.0.1:1/x").fetch("1")', "Unreachable", r".*"),
]


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    """The cells, after they were run."""
    notebook = cast("nbformat.NotebookNode", nbformat.v4.new_notebook())  # type: ignore[no-untyped-call] # has no types
    for source in (SETUP, *(cell for cell, *_ in CELLS)):
        notebook.cells.append(nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call] # as above
    NotebookClient(notebook, allow_errors=True, timeout=120).execute()
    return notebook


@pytest.mark.parametrize("number", range(len(CELLS)))
def test_traceback_has_one_frame(notebook: nbformat.NotebookNode, number: int) -> None:
    """The traceback shows the line of the cell and the message, and nothing of distsdk or its causes."""
    source, line, kind, message = CELLS[number]
    [output] = notebook.cells[number + 1].outputs
    shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
    assert 1 == shown.count("Cell In[")
    assert 1 == len(re.findall(r"^-+> \d+ ", shown, re.MULTILINE))
    assert f"> {source.splitlines().index(line) + 1} {line}" in re.sub(r" +", " ", shown)
    assert re.search(rf"^{kind}: {message}\Z", shown.rstrip(), re.MULTILINE)
    assert len(shown.splitlines()) <= 10
    assert "distsdk/" not in shown


def test_plain_tracebacks_are_whole() -> None:
    """The error itself keeps its frames and its causes for the standard library's tracebacks."""
    import traceback

    import distsdk

    with pytest.raises(distsdk.Unreachable) as caught:
        distsdk.connect("127.0.0.1:1/x").fetch("1")
    before = traceback.format_exception(caught.value)
    shown = caught.value._render_traceback_()
    assert before == traceback.format_exception(caught.value)
    assert len(before) > len(shown)
    assert caught.value.__cause__ is not None
