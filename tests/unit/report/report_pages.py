"""Reports to look at: of a real small run, with scores and refusals that it did not have."""

from __future__ import annotations

import dataclasses
import functools
import re
from html.parser import HTMLParser

from fedsec.evaluation.matching import Tally
from fedsec.evaluation.scores import ExampleCounts, Scores
from fedsec.report.data import ReportData, gather
from fedsec.report.rounds import Aborted, Refusal
from fedsec.report.scoring import kind_report
from fedsec.study.folder import RunFolder
from fedsec.study.results import FEDERATED, SINGLE, Results
from tests.scored import counted
from tests.unit.cli.smoke import finished_run

HOSTILE = "no approval at <script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def scores(right: int, of: int = 10, first: int = 0) -> Scores:
    """One mention an example; the first ``right`` examples are answered right, the others not at all."""
    counts = tuple(
        ExampleCounts(
            example_id=f"e{number}",
            entities={"Drug": Tally(gold=1, predicted=int(number < right), strict=int(number < right), lenient=0)},
            relations={},
        )
        for number in range(first, of)
    )
    return counted(counts)


def results() -> Results:
    """Together weakest on harbour; clifton was better off alone."""
    together = {"clifton": scores(6), "harbour": scores(3), "priory": scores(8)}
    alone = {"clifton": scores(10), "harbour": scores(0), "priory": scores(7)}
    singles = {f"{SINGLE}{site}": dict.fromkeys(together, alone[site]) for site in alone}
    return Results(scores={FEDERATED: together, **singles})


@functools.cache
def real() -> ReportData:
    """A finished run without scores, in which nothing was refused."""
    return gather(RunFolder.open(finished_run()))


@functools.cache
def example() -> ReportData:
    """The same with scores and refusals, one of which is hostile."""
    report = kind_report(results(), "entities")
    assert report is not None
    refused = (
        Refusal(1, "clifton", "training", HOSTILE, True),
        Refusal(2, "priory", "checking the sum", "priory computed another adapter from the same sum", True),
        Refusal(3, "westlake", "signing the log", "no answer within 3600 s", False),
    )
    given_up = (Aborted(2, 1, "U3 has 4 sites; trying again with all"),)
    return dataclasses.replace(real(), kinds=(report,), refusals=refused, aborted=given_up)


class Page(HTMLParser):
    """What stands below each id, as text; every tag with its attributes; every text of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, str | None]] = []
        self._texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append((tag, dict(attrs).get("id")))
            self._texts.setdefault(dict(attrs).get("id") or "", [])

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not any(tag in ("style", "script") for tag, _ in self._open):
            for name in {name or "" for _, name in self._open}:
                self._texts[name].append(data)

    def text(self, name: str = "") -> str:
        """Everything readable below the element with this id, blanks folded; of the whole page if left out."""
        return re.sub(r"\s+", " ", " ".join(self._texts[name])).strip()

    def ids(self) -> list[str]:
        """Every id, in order."""
        return [name for _, attributes in self.tags if (name := attributes.get("id")) is not None]
