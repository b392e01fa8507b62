"""The numbered checks, as the code has them: ``# Check 7 (Sybil): why.`` above the statement that makes the check.

``python -m tests.mutation.checks`` writes their table into docs/protocol.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "protocol.md"
SOURCES = ("secure/fedsec_secure", "sdk/fedsec/encryption", "sdk/fedsec/site", "sdk/fedsec/coordinator")
_COMMENT = re.compile(r"^ *# Check (\d+) \(([^)]+)\): (.+)\.$")
_BEGIN, _END = "<!-- numbered checks: written by tests/mutation/checks.py -->\n", "<!-- end of numbered checks -->"


@dataclass(frozen=True)
class Check:
    """One statement that refuses. ``first`` and ``last`` are its lines, from 1."""

    number: int
    attack: str
    why: str
    file: str
    owner: str
    first: int
    last: int

    def removed(self, source: str) -> str:
        """The file without the check."""
        lines = source.splitlines()
        indent = len(lines[self.first - 1]) - len(lines[self.first - 1].lstrip())
        lines[self.first - 1 : self.last] = [" " * indent + "pass"]
        return "\n".join(lines) + "\n"


def find_checks(root: Path = ROOT) -> list[Check]:
    """All of them, by number. ValueError for a number that is missing or stands twice, or a statement that is none."""
    paths = [path for folder in SOURCES for path in sorted((root / folder).rglob("*.py"))]
    found = [check for path in paths for check in _in_file(root, path)]
    found.sort(key=lambda check: check.number)
    if [c.number for c in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"checks are numbered 1, 2, 3, …; found {[c.number for c in found]}")
    return found


def _in_file(root: Path, path: Path) -> Iterator[Check]:
    source = path.read_text(encoding="utf-8")
    comments = {i: m for i, line in enumerate(source.splitlines(), 1) if (m := _COMMENT.match(line))}
    if not comments:
        return
    name = path.relative_to(root).as_posix()
    statements = dict(_statements(ast.parse(source), ""))
    for line, match in comments.items():
        if line + 1 not in statements:
            raise ValueError(f"{name}:{line}: a check's comment stands right above an `if`, a `for` or a call")
        node, owner = statements[line + 1]
        yield Check(int(match[1]), match[2], match[3], name, owner, node.lineno, node.end_lineno or node.lineno)


def _statements(tree: ast.AST, owner: str) -> Iterator[tuple[int, tuple[ast.stmt, str]]]:
    """Line -> (statement that can be left out, the function that it is in)."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.ClassDef)
        inside = f"{owner}.{node.name}".lstrip(".") if named else owner  # type: ignore[attr-defined]
        if isinstance(node, ast.For | ast.Expr) or (isinstance(node, ast.If) and not node.orelse):
            yield node.lineno, (node, owner)
        yield from _statements(node, inside)


def table(checks: list[Check]) -> str:
    """Markdown."""
    rows = ["| check | attack | why | in |", "|---:|---|---|---|"]
    for c in checks:
        rows.append(f"| {c.number} | {c.attack} | {c.why} | [`{c.owner}`](../{c.file}) |")
    return "\n".join(rows)


def written(page: str, checks: list[Check]) -> str:
    """The page with the table anew."""
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + table(checks) + "\n" + _END + rest.split(_END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), find_checks()), encoding="utf-8")
