"""Every target is fuzzed for its share of the time.

What is learnt stays in ``.fuzz``, so that the next run goes on from there. A finding is there, too: ``run.py`` repeats
it, and once it is understood it goes into the corpus, which ``tests/unit/parsers`` runs on every Python.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has wheels for CPython on Linux on x86-64 only: nothing is fuzzed here")

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
WORK = FOLDER.parents[1] / ".fuzz"

#: Seconds after which libFuzzer gives up one input that does not end, and those that starting and ending may take.
STUCK, START = 20, 60


@pytest.mark.parametrize("target", sorted(path.name for path in CORPUS.iterdir() if path.is_dir()))
def test_fuzz(target: str, seconds: float) -> None:
    """No input makes a parser fail in a way that is not documented, say what it must not, or take its time."""
    learnt, found = WORK / target / "learnt", WORK / target / "found"
    for folder in (learnt, found):
        folder.mkdir(parents=True, exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    command = [sys.executable, str(FOLDER / "run.py"), target, f"-max_total_time={max(1, round(seconds))}"]
    command += [f"-timeout={STUCK}", "-max_len=4096", f"-artifact_prefix={found}/"]
    done = subprocess.run(
        [*command, str(learnt), str(CORPUS / target)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + START,
        check=False,
    )
    # Exceptions are on stdout; what libFuzzer says is on stderr, among lines of progress.
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith(("#", "INFO:")))
    told = f"{done.stdout[-8000:]}\n{said[-4000:]}"
    assert 0 == done.returncode, f"{told}\nTo repeat it: python tests/fuzz/run.py {target} FILE"
    runs = re.search(r"^Done ([0-9]+) runs", done.stderr, re.MULTILINE)
    assert runs is not None, told
    # The corpus itself, at least: a target that cannot be run has not been fuzzed.
    assert int(runs[1]) > len(list((CORPUS / target).iterdir()))
