"""Check the words of docstrings, comments on constants, messages, help texts and documentation pages.

`docs/contributing/style.md` has the reasons. A phrase of the list fails the check wherever it stands in prose; "what"
may be right in a question, so its number is bounded. Code, literals, quoted titles and the changelog are not prose.

    python .ci/words.py            check the package, its tests' docstrings and the documentation
    python .ci/words.py --count    print the counts for each part instead
"""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

#: Phrases, each with the words to use for it.
PHRASES = {
    r"somebody|someone|anybody|nobody|whoever|everybody": "name the subject: the caller, the registry, another process",
    r"anew": "again",
    r"beforehand": "before",
    r"goes on|go on with|going on|gone on with": "continues, resumes",
    r"is told|are told|was told|tells": "is passed, receives; reports, returns",
    r"stands for|stand for": "names, resolves to, represents",
    r"lies beside|lie beside": "is next to",
    r"is none|are none|that is no \w+": "is not a …",
    r"of which": "start a new sentence",
    r"a look": "showing, inspecting",
    r"what is there|what was asked for|what is here|that which": "name the object, the content or the digest",
    r"crew|cargo|shelf|patience": "worker pool, upload set, content source, retry state",
}

#: Occurrences of "what" in 10,000 words of prose.
WHAT_LIMIT = 30

_PATTERNS = [(re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE), instead) for phrase, instead in PHRASES.items()]
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_NOT_PROSE = re.compile(r"``[^`]*``|`[^`]*`|https?://\S+|\"[^\"\n]{1,80}\"|^\s*>>>.*$|^\s*\.\. .*$", re.MULTILINE)


class Prose(NamedTuple):
    """A piece of prose and where it stands.

    Attributes:
        path: The file.
        line: The line on which the text begins, from 1.
        text: The text, without code and literals.
    """

    path: Path
    line: int
    text: str


def prose_of_python(path: Path) -> Iterator[Prose]:
    """Yield docstrings, comments, and the texts of messages and help of a module."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if first is not None and ast.get_docstring(node, clean=False) is not None:
                yield Prose(path, first.lineno, str(ast.get_docstring(node, clean=False)))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from _texts(path, node.exc)
        elif (isinstance(node, ast.Assign) and any(ast.unparse(t) in {"message", "text"} for t in node.targets)) or (
            isinstance(node, ast.keyword) and node.arg in {"help", "short_help", "epilog"}
        ):
            yield from _texts(path, node.value)
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and not re.match(
                r"#\s*(noqa|type:|pragma|shellcheck|https?:)", token.string
            ):
                yield Prose(path, token.start[0], token.string.lstrip("#: "))


def _texts(path: Path, node: ast.AST) -> Iterator[Prose]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and " " in inner.value:
            yield Prose(path, inner.lineno, inner.value)


def prose_of_markdown(path: Path) -> Iterator[Prose]:
    """Yield the lines of a page that are not code."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield Prose(path, number, line)


def prose() -> Iterator[Prose]:
    """Yield all prose of the project."""
    for path in sorted((ROOT / "distsdk").rglob("*.py")):
        yield from prose_of_python(path)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield from prose_of_python(path)
    for path in sorted(ROOT.rglob("*.md")):
        hidden = (part for part in path.relative_to(ROOT).parts if part.startswith((".", "_")) and part != ".github")
        if path.name != "CHANGELOG.md" and not any(hidden):
            yield from prose_of_markdown(path)


def main(arguments: list[str]) -> int:
    """Check, or count; return the exit code."""
    words, found, whats = 0, [], 0
    parts: dict[str, Counter[str]] = {}
    for piece in prose():
        text = _NOT_PROSE.sub(lambda match: "\n" * match.group().count("\n"), piece.text)
        here = piece.path.relative_to(ROOT)
        part = "/".join(here.parts[:2]) if here.parts[0] in {"distsdk", "docs", "tests"} else here.parts[0]
        count = parts.setdefault(part, Counter())
        number = len(_WORD.findall(text))
        what = len(re.findall(r"\bwhat\b", text, re.IGNORECASE))
        words, whats = words + number, whats + what
        count.update(words=number, what=what)
        for pattern, instead in _PATTERNS:
            for match in pattern.finditer(text):
                line = piece.line + text.count("\n", 0, match.start())
                found.append(f"{here}:{line}: {match.group()!r}: {instead}")
                count.update(phrases=1)
    if "--count" in arguments:
        for part, count in sorted(parts.items()):
            print(f"{part:<32} {count['words']:>7} words {count['what']:>5} what {count['phrases']:>5} phrases")
        print(f"{words} words; in 10,000: what {10_000 * whats / words:.0f}, phrases {10_000 * len(found) / words:.0f}")
        return 0
    print(*found, sep="\n")
    rate = 10_000 * whats / words
    if rate > WHAT_LIMIT:
        print(f'"what" stands {rate:.0f} times in 10,000 words; {WHAT_LIMIT} are allowed')
    return int(bool(found) or rate > WHAT_LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
