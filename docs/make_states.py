"""Draw the state diagrams in protocol.md from the transition tables: ``python docs/make_states.py``."""

from __future__ import annotations

from pathlib import Path

from fedsec_secure.masking.transitions import GROUPED, MASKED, PLAIN, SEALED, Table

PAGE = Path(__file__).with_name("protocol.md")
_TITLES = {"mask": MASKED, "none": PLAIN, "groups": GROUPED, "he": SEALED}


def diagram(table: Table) -> str:
    """Mermaid: an arrow a transition; a dotted label for those that begin the next attempt."""
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", f"    [*] --> {table.stages[0]}"]
    for t in table.transitions:
        lines.append(f"    {t.before} --> {t.after}: {t.exchange}{', next attempt' if t.attempt else ''}")
    return "\n".join([*lines, f"    {table.stages[-1]} --> [*]", "```"])


def drawn(page: str) -> str:
    """The page with its diagrams drawn anew."""
    for name, table in _TITLES.items():
        begin, end = f"<!-- states of {name}: drawn by docs/make_states.py -->\n", f"<!-- end of states of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + diagram(table) + "\n" + end + rest.split(end)[1]
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
