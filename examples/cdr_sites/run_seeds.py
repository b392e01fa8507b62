"""Runs the study once a seed, each in a process of its own, and writes the scores of all seeds as tables.

    FEDSEC_DATA=... python examples/cdr_sites/run_seeds.py --out runs/cdr --seeds 0 1 2

A seed whose run folder exists is resumed, a finished one is only read; so after a kill, the same command goes on.
Results: scores.csv (a row for each seed, system, test set, kind and match) and summary.md (mean, lowest, highest).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedsec.evaluation.scores import Kind, Match, Scores, kind_scores
from fedsec.study.folder import RunFolder
from fedsec.study.results import CENTRAL, FEDERATED, ZERO_SHOT, Results

HERE = Path(__file__).resolve().parent
KINDS: tuple[Kind, ...] = ("entities", "relations")
MATCHES: tuple[Match, ...] = ("strict", "lenient")
ALL = "all"
COMMON = " (same)"
"""Marks a system scored again on only those sentences that the single sites were scored on."""
_CALL = "from fedsec.cli import main; main()"


class Row(NamedTuple):
    """One F1."""

    seed: int
    system: str
    test: str
    kind: Kind
    match: Match
    f1: float


class Study(NamedTuple):
    """What all seeds share: the plan, the sites' folder, changes to the plan, and how many sites train at once."""

    plan: Path
    sites: Path
    assignments: Sequence[str] = ()
    jobs: int | None = None


def command(folder: Path, seed: int, study: Study) -> list[str]:
    """The arguments of `fedsec` that start a seed's run, or go on with it."""
    jobs = [] if study.jobs is None else ["--jobs", str(study.jobs)]
    if (folder / "run.json").is_file():
        return ["resume", str(folder), "--quiet", *jobs]
    start = ["run", str(study.plan), "--sites", str(study.sites), "--out", str(folder), "--init", "--quiet", *jobs]
    for assignment in (*study.assignments, f"seed={seed}"):
        start += ["--set", assignment]
    return start


def run_seed(folder: Path, seed: int, study: Study) -> None:
    """Run, resume, or leave alone what is finished; CalledProcessError where `fedsec` fails."""
    if not is_finished(folder):
        arguments = command(folder, seed, study)
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"seed {seed}: fedsec {arguments[0]} …", flush=True)
        subprocess.run([sys.executable, "-c", _CALL, *arguments], check=True)
    found = RunFolder.open(folder).plan.seed
    if found != seed:
        raise SystemExit(f"{folder} is a run of seed {found}, expected {seed}; choose another --out")


def is_finished(folder: Path) -> bool:
    """Whether the run has done all that its plan asks for."""
    if not (folder / "run.json").is_file():
        return False
    return any(event["event"] == "finished" for event in RunFolder.open(folder).events())


def on_common_sentences(results: Results) -> Results:
    """The results, and beside them the other systems on only those sentences that every single site answered too."""
    added = Results(scores=dict(results.scores))
    singles = [results.scores[s] for s in results.singles()]
    for system in (ZERO_SHOT, FEDERATED, CENTRAL):
        if system in results.scores and singles:
            added.scores[system + COMMON] = {
                name: _restricted(scores, [single[name] for single in singles])
                for name, scores in results.scores[system].items()
            }
    return added


def _restricted(scores: Scores, others: Sequence[Scores]) -> Scores:
    shared = set.intersection(*({c.example_id for c in other.counts} for other in others))
    counts = tuple(c for c in scores.counts if c.example_id in shared)
    return scores.model_copy(
        update={
            "examples": len(counts),
            "counts": counts,
            **{kind: kind_scores(counts, kind) for kind in KINDS if getattr(scores, kind) is not None},
        }
    )


def rows_of(seed: int, results: Results) -> Iterator[Row]:
    """Every F1 of one seed; the test set ``all`` is the mean over the test sets that have such labels."""
    for system, by_test in results.scores.items():
        for kind in KINDS:
            for match in MATCHES:
                for name, scores in by_test.items():
                    value = scores.f1(kind, match)
                    if value is not None:
                        yield Row(seed, system, name, kind, match, value)
                mean = results.macro(system, kind, match)
                if mean is not None:
                    yield Row(seed, system, ALL, kind, match, mean)


def score_table(rows: Sequence[Row], kind: Kind, match: Match) -> list[str]:
    """Systems by test sets: mean over seeds, and the lowest and highest in brackets."""
    values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if (row.kind, row.match) == (kind, match):
            values[row.system, row.test].append(row.f1)
    tests = [*sorted({test for _, test in values} - {ALL}), ALL]
    lines = ["| trained by | " + " | ".join(tests) + " |", "|---" + "|---:" * len(tests) + "|"]
    for system in sorted({system for system, _ in values}):
        lines.append(f"| {system} | " + " | ".join(_spread(values[system, test]) for test in tests) + " |")
    return lines


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f}–{max(values):.3f})" if values else "–"


def gain_table(by_seed: Mapping[int, Results]) -> list[str]:
    """Federated minus the best single site of that seed, kind and match, on the sentences that both answered."""
    lines = ["| seed | scores | best single site | difference | 95 % interval |", "|---:|---|---|---:|---|"]
    for seed, results in sorted(by_seed.items()):
        for kind in KINDS:
            for match in MATCHES:
                gain = results.gain(kind, match) if results.best_single(kind, match) else None
                if gain is not None:
                    best, interval = gain
                    ends = f"{interval.low:+.3f} to {interval.high:+.3f}"
                    lines.append(f"| {seed} | {kind}, {match} | {best} | {interval.difference:+.3f} | {ends} |")
    return lines


def write_tables(by_seed: Mapping[int, Results], target: Path) -> None:
    """scores.csv and summary.md."""
    target.mkdir(parents=True, exist_ok=True)
    rows = [row for seed, results in sorted(by_seed.items()) for row in rows_of(seed, on_common_sentences(results))]
    with (target / "scores.csv").open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(row._replace(f1=round(row.f1, 4)) for row in rows)
    lines = [
        f"Seeds: {', '.join(map(str, sorted(by_seed)))}. F1 as mean over seeds (lowest–highest). `{ALL}` is the mean "
        f"over the test sets. Single sites are scored on a part of each test set; compare them with the rows marked "
        f"`{COMMON.strip()}`, which hold the same sentences."
    ]
    for kind in KINDS:
        for match in MATCHES:
            lines += ["", f"## {kind.capitalize()}, {match}", "", *score_table(rows, kind, match)]
    lines += [
        "",
        "## Federated minus the best single site",
        "",
        "Paired bootstrap over test sentences, one seed at a time. The best single site is picked after the fact, by "
        "the same scores, which is in its favour.",
        "",
        *gain_table(by_seed),
    ]
    (target / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders, OUT/seed-N")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plan", type=Path, default=HERE / "plan.toml")
    parser.add_argument("--sites", type=Path, default=HERE / "sites")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the tables")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--jobs", type=int, help="sites that train at once (default: a core each); 1 for a seed a core")
    parser.add_argument("--collect-only", action="store_true", help="read finished runs, start and resume none")
    given = parser.parse_args(arguments)
    study = Study(given.plan, given.sites, given.assignments, given.jobs)
    by_seed = {}
    for seed in given.seeds:
        folder = given.out / f"seed-{seed}"
        if not given.collect_only:
            run_seed(folder, seed, study)
        elif not is_finished(folder):
            raise SystemExit(f"{folder} is not a finished run; leave --collect-only out to go on with it")
        by_seed[seed] = RunFolder.open(folder).results()
        write_tables(by_seed, given.results)  # after each seed: what is done can be read
    print(f"tables: {given.results / 'summary.md'}, {given.results / 'scores.csv'}")


if __name__ == "__main__":
    main()
