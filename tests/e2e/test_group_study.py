"""A whole study weighed in groups, as people run it: from a draft to a certificate that holds, and a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedsec.cli.app import run as command
from fedsec.plan.toml import write_toml
from fedsec.site.store import SiteStore
from fedsec.study.certificate import CERTIFICATE, open_certificate
from fedsec.study.folder import RunFolder
from fedsec.study.logbook import Logbook
from fedsec.study.verify import PinnedSite, Pins
from fedsec_secure.codec import sha256
from fedsec_secure.identity.keys import PublicKey
from fedsec_secure.record.entries import DrawEntry, ScoresEntry, SurvivorsEntry

SMOKE = Path(__file__).parents[2] / "examples" / "smoke"
RUN = "grouped"
SETTINGS = (
    "rounds=2",
    'weighting={rule="group-influence", groups=2, cap=0.4, validation={name="harbour", entity_types=["Drug"]}}',
    "secure.minimum_cohort=3",
    "training.examples_per_round=2",
    "canaries.per_site=0",
    "evaluation.baselines=[]",
    "evaluation.public_tests=[]",
)


def fedsec(*arguments: object) -> int:
    """Its exit code."""
    with pytest.raises(SystemExit) as e:
        command([str(a) for a in arguments])
    return int(e.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    chosen = [part for setting in SETTINGS for part in ("--set", setting)]
    options = ["--sites", SMOKE / "sites", "--out", out, "--init", "--quiet", "--run-id", RUN]
    assert fedsec("run", SMOKE / "plan.toml", *options, *chosen) == 0
    return out


@pytest.fixture(scope="module")
def pins(finished) -> Path:
    """The keys of everybody, as they would be compared by telephone."""
    roster = RunFolder.open(finished).plan.roster
    sites = {name: PinnedSite(key=m.key, officer=m.officer) for name, m in roster.sites.items()}
    path = finished.with_name("pins.toml")
    path.write_text(write_toml(Pins(coordinator=roster.coordinator, sites=sites), "Keys"))
    return path


def test_it_ends_with_a_certificate_that_holds(finished, pins, capsys):
    assert fedsec("verify", finished, "--keys", pins, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["held"]
    assert {row["outcome"] for row in said["checks"]} == {"held"}
    plan = RunFolder.open(finished).plan
    key = PublicKey.from_hex(plan.roster.coordinator)
    certificate = open_certificate((finished / CERTIFICATE).read_bytes(), key).predicate
    assert {site.site for site in certificate.sites} == set(plan.roster.sites)


def test_every_site_holds_the_statements_that_the_log_names(finished):
    """The groups and both rounds' scores: in the log that all cosigned, and in each site's own record."""
    entries = Logbook.read(finished).entries
    (drawn,) = (e for e in entries if isinstance(e, DrawEntry))
    assert [len(group) for group in drawn.groups] == [3, 3]
    sums = [(e.round, e.sites) for e in entries if isinstance(e, SurvivorsEntry)]
    assert sums == [(number, group) for number in (0, 1) for group in drawn.groups]
    logged = {e.round: e.scores_sha256 for e in entries if isinstance(e, ScoresEntry)}
    assert set(logged) == {0, 1}
    for name in RunFolder.open(finished).plan.roster.sites:
        store = SiteStore(finished.with_name("run-sites") / name / "state")
        try:
            assert store.draws.groups(RUN) == drawn.groups
            kept = store.draws.all_scores(RUN)
        finally:
            store.close()
        assert {number: sha256(packet).hex() for number, packet in kept.items()} == logged


def test_the_page_shows_both_rounds(finished):
    page = (finished / "report.html").read_text()
    assert page.count('rowspan="2"') == 2 * 3
    assert "<dt>Group 2</dt>" in page


def test_other_groups_in_the_log_are_found(finished, pins, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    path = copy / "log" / "entries.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (place,) = (i for i, line in enumerate(lines) if b'"kind":"draw"' in line)
    entry = json.loads(lines[place])
    a, b = entry["groups"]
    entry["groups"] = [sorted([b[0], *a[1:]]), sorted([a[0], *b[1:]])]
    lines[place] = DrawEntry.model_validate_json(json.dumps(entry)).leaf_data().split(b"\0", 1)[1] + b"\n"
    path.write_bytes(b"".join(lines))
    assert fedsec("verify", copy, "--keys", pins) == 1
