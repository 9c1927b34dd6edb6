"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import distsdk

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "distsdk"
author = "The distsdk authors"
project_copyright = author
version = release = distsdk.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
default_role = "code"

html_theme = "furo"
html_title = f"distsdk {version}"
html_copy_source = False
html_show_sourcelink = False

# Markdown: tables, definition lists and links to headings.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are committed with their outputs, and the tests compare those with a fresh run.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True


class Displayed(SphinxDirective):
    """Code, and what a notebook shows of its last expression: run while this is built, from the recordings."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the code and the HTML."""
        if self.env.docname != "reference/gallery":
            raise self.error("code is run for the gallery alone")
        code = "\n".join(self.content)
        literal = nodes.literal_block(code, code, language="python")
        html = f'<div class="shown">{_shown(code)}</div>'
        return [literal, nodes.raw("", html, format="html")]


#: The names that the code of the gallery has, and a folder that it may write to.
_names: dict[str, Any] = {}
_folder = tempfile.TemporaryDirectory(prefix="distsdk-docs-")


def _shown(code: str) -> str:
    *statements, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), code  # noqa: S101 - what is to be shown
    logging.getLogger("distsdk").setLevel(logging.WARNING)  # myst-nb would print what it is told
    with contextlib.chdir(_folder.name), distsdk.replay(ROOT / "cassettes"):
        os.environ["XDG_CACHE_HOME"] = _folder.name
        exec(compile(ast.Module(statements, []), "gallery", "exec"), _names)  # noqa: S102 - ours
        value = eval(compile(ast.Expression(last.value), "gallery", "eval"), _names)  # noqa: S307 - ours
        html: str = value._repr_html_()
    return html.replace(_folder.name + os.sep, "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Teach Sphinx the directive."""
    app.add_directive("shown", Displayed)
    return {"parallel_read_safe": False}
