"""Check the types of the Python examples in README.md and docs/, and of tests/data/typing, as a user's checkers do.

The blocks of a page are put together, as the test that runs them does, and mypy (strict) and pyright read them from a
directory outside the repository, so that distsdk is a library to them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Libraries without types of their own. Their imports are not errors of an example.
UNTYPED = "--ignore-missing-imports"


def write_examples(target: Path) -> int:
    """Write the Python of each page into a module, and return the number of modules.

    Args:
        target: The directory to write to.
    """
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    count = 0
    for page in pages:
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if blocks and "_build" not in page.parts:
            name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
            (target / f"{name}.py").write_text("\n".join(blocks), encoding="utf-8")
            count += 1
    for script in (ROOT / "tests" / "data" / "typing").glob("*.py"):
        (target / script.name).write_bytes(script.read_bytes())
        count += 1
    return count


def main() -> int:
    """Check the examples, and return 1 if a checker finds an error, 0 otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        count = write_examples(target)
        print(f"{count} examples", flush=True)
        mypy = ["-m", "mypy", "--strict", "--config-file=", f"--cache-dir={target / 'cache'}", UNTYPED, "."]
        pyright = ["-m", "pyright", "--level=error", f"--pythonpath={sys.executable}", "."]
        commands = [[sys.executable, *mypy], [sys.executable, *pyright]]
        codes = [subprocess.run(command, cwd=target, check=False).returncode for command in commands]  # noqa: S603
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
