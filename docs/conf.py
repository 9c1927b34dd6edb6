"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import distsdk

project = "distsdk"
author = "The distsdk authors"
project_copyright = author
version = release = distsdk.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
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
