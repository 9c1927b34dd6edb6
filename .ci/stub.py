"""Write `distsdk/__init__.pyi`, which type checkers and editors read, from the table in `distsdk/__init__.py`.

A test compares the file with `stub()`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUB = ROOT / "distsdk" / "__init__.pyi"


def stub() -> str:
    """Return the text of the stub."""
    sys.path.insert(0, str(ROOT))
    import distsdk

    homes = sorted(distsdk._HOME_OF.items(), key=_order)
    lines = [f"from distsdk.{module} import {name} as {name}" for name, module in homes]
    exported = "".join(f'    "{name}",\n' for name in distsdk.__all__)
    return "\n".join(
        [
            '"""The public names, for type checkers: written by .ci/stub.py, not by hand."""\n',
            *lines,
            "\n__version__: str\n",
            "#: Private: the table in `__init__.py`, which is the source of this file.",
            "_HOMES: dict[str, tuple[str, ...]]",
            "_HOME_OF: dict[str, str]\n",
            f"__all__ = [\n{exported}]\n",
        ]
    )


def _order(item: tuple[str, str]) -> tuple[str, bool, bool, str]:
    """Return a sort key: by module, and as ruff sorts names, constants before classes before functions."""
    name, module = item
    return module, not name.isupper(), not re.match("[A-Z]", name), name


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
