"""A run whose uploads are encrypted, killed at any write and started again: one key, one upload an attempt, and the end
of an undisturbed run bit for bit. Encryptions are random, so an upload that was made twice is another one each time.
"""

from __future__ import annotations

import random
import signal
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from fedsec.site.store import SiteStore
from tests.e2e.conftest import SITES
from tests.e2e.crash import ANSWERS, SENT, CrashLab
from tests.e2e.federation import RUN

ROUNDS = 2
EXCHANGES = {
    "he-mask": ("train", "share", "mask", "confirm", "unmask", "verdict"),
    "he": ("train", "encrypt", "verdict"),
}
CEREMONY = ("key-offer", "key-deal", "key-take")


def check_sent(folder: Path) -> None:
    """At each site one update a round, and one upload an attempt of it."""
    updates, uploads = defaultdict(set), defaultdict(set)
    for line in (folder / SENT).read_text().splitlines():
        site, number, attempt, update, upload = line.split()
        updates[site, number].add(update)
        uploads[site, number, attempt].add(upload)
    assert len(updates) == SITES * ROUNDS
    assert [place for place, found in updates.items() if len(found) > 1] == []
    assert [place for place, found in uploads.items() if len(found) > 1] == []


def check_answers(folder: Path) -> None:
    """One offer and one key a site, one packet of the dealer's, one verdict a round, over all lives."""
    answers = defaultdict(set)
    for line in (folder / ANSWERS).read_text().splitlines():
        site, name, number, digest = line.split()
        answers[site, name, number].add(digest)
    assert len(answers) == SITES * (2 + ROUNDS) + 1
    assert [place for place, found in answers.items() if len(found) > 1] == []


def kill_and_resume(lab, folder: Path, expected: dict, mode: str, *kills: int | str) -> None:
    for kill in kills:
        killed = lab.run(folder, kill, mode=mode)
        assert killed == {"signal": signal.SIGKILL}, f"the run was not killed at {kill!r}: {killed.get('status')}"
    resumed = lab.run(folder, mode=mode)
    assert resumed["status"] == 0, f"killed at {kills}, the run does not resume"
    assert resumed["adapter"] == expected["adapter"], f"killed at {kills}, the run ends elsewhere"
    assert resumed["left"] == expected["left"], f"killed at {kills}, the run leaves other files, secrets or keys"
    check_sent(folder)
    check_answers(folder)


def moments_of(exchange: str, number: int = 1) -> list[str]:
    """Before, inside (one site answered, the next is asked), after the last answer, before the journal's row."""
    asked = "site-a" if exchange == "key-deal" else "site-c"
    names = (f"before {exchange}", f"site-a after {exchange}", f"{asked} before {exchange}", f"after {exchange}")
    return [f"{name} #{number}" for name in names]


def test_killed_in_the_ceremony(lab, undisturbed, runs):
    """Around each exchange of it, and at the writes of offer, packet and key and their ends: one for both modes."""
    mode = "he-mask"
    expected = undisturbed(mode=mode)
    labels = expected["moments"]
    kept = [i for i, label in enumerate(labels) if "site-b sql" in label and "encryption" in label and "key" in label]
    dealt = next(i for i, label in enumerate(labels) if "SET offers" in label)
    moments = {moments_of(e)[i] for i, e in enumerate(CEREMONY)} | {dealt, dealt + 2, kept[0], kept[0] + 2}
    for moment in sorted(moments, key=str):
        kill_and_resume(lab, runs / str(moment), expected, mode, moment)


@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_between_the_last_answer_and_the_end_of_the_key(lab, undisturbed, runs, mode):
    expected = undisturbed(mode=mode)
    found = [i for i, label in enumerate(expected["moments"]) if "sql UPDATE encryption SET key = NULL" in label]
    assert len(found) == SITES
    for moment in (found[0], found[0] + 2):
        kill_and_resume(lab, runs / str(moment), expected, mode, moment)


def test_the_key_of_an_attested_run_goes_even_if_nobody_asks_again(lab, undisturbed, runs):
    labels = undisturbed(mode="he")["moments"]
    moment = next(i for i, label in enumerate(labels) if "site-a sql UPDATE encryption SET key = NULL" in label)
    assert lab.run(runs / "killed", moment, mode="he") == {"signal": signal.SIGKILL}
    state, query = runs / "killed" / "state" / "site-a", "SELECT key FROM encryption"
    with closing(sqlite3.connect(state / "record.sqlite")) as db:
        (key,) = db.execute(query).fetchone()
    assert len(key) == 32
    assert lab.run(runs / "killed", 0, mode="he") == {"signal": signal.SIGKILL}, "its sites were opened, and no more"
    with closing(SiteStore(state)) as store:
        assert store.keys.is_destroyed(RUN)
    assert not any(key in path.read_bytes() for path in state.rglob("*") if path.is_file())


@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_at_sampled_writes(lab, undisturbed, runs, mode):
    """Statements, fsyncs, renames and unlinks in journal and stores: every 211th here, all of them in the slow lane."""
    expected = undisturbed(mode=mode)
    for moment in range(97, len(expected["moments"]), 211):
        kill_and_resume(lab, runs / str(moment), expected, mode, moment)


@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_again_and_again(lab, undisturbed, runs, mode):
    draw = random.Random(6)
    kill_and_resume(lab, runs / "often", undisturbed(mode=mode), mode, *(draw.randrange(30, 90) for _ in range(4)))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "exchange"), [(m, e) for m, every in EXCHANGES.items() for e in every])
def test_killed_before_inside_and_after_every_exchange(lab, undisturbed, runs, mode, exchange):
    expected = undisturbed(mode=mode)
    for number in range(1, ROUNDS + 1):
        for moment in moments_of(exchange, number):
            kill_and_resume(lab, runs / moment, expected, mode, moment)


@pytest.mark.slow
@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_at_every_moment_of_a_run(lab, undisturbed, runs, mode):
    """Some 1,300 and 1,000 of them: half an hour."""
    expected = undisturbed(mode=mode)
    for moment in range(len(expected["moments"])):
        kill_and_resume(lab, runs / str(moment), expected, mode, moment)


# ---- a coordinator that knows of the crash, and asks for an upload to another set first


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Sites, so that a set without one of them is large enough."""
    lab = CrashLab(tmp_path_factory.mktemp("four"), SITES + 1)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def of_four(four, quick_folder) -> dict[str, list[str]]:
    """By mode, what happens in an undisturbed run."""
    return {mode: four.run(quick_folder / f"four-{mode}", mode=mode, rounds=1)["moments"] for mode in EXCHANGES}


def killed_and_lied_to(four, folder: Path, labels: list[str], mode: str, step: int) -> None:
    """At every ``step``th moment of site-b's first upload, and at the two around its row in the record."""
    upload = EXCHANGES[mode][-4 if mode == "he-mask" else -2]
    first, last = labels.index(f"site-b before {upload} #1"), labels.index(f"site-b after {upload} #1")
    saved = next(i for i in range(first, last) if labels[i].startswith("site-b sql INSERT INTO stages"))
    committed = next(i for i in range(saved, last) if labels[i].startswith("site-b sql COMMIT")) + 1
    for moment in sorted({*range(first + 1, last + 1, step), committed - 1, committed}):
        place = folder / str(moment)
        assert four.run(place, moment, mode=mode, rounds=1) == {"signal": signal.SIGKILL}
        resumed = four.run(place, mode=mode, rounds=1, lie_to="site-b")
        assert resumed["status"] == 0, f"killed at {labels[moment]}"
        (said,) = resumed["lies"]
        assert said.startswith("refused" if moment >= committed else "answered"), f"killed at {labels[moment]}"
        sent = defaultdict(set)
        for line in (place / SENT).read_text().splitlines():
            site, number, attempt, _, digest = line.split()
            sent[site, number, attempt].add(digest)
        assert {place: found for place, found in sent.items() if len(found) > 1} == {}, f"killed at {labels[moment]}"
        assert ("site-b", "0", "0") in sent


@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_and_asked_for_another_set_a_site_uploads_once(four, runs, of_four, mode):
    """What it answers first it answers for ever: the lie where nothing was on record, else what it had sent."""
    killed_and_lied_to(four, runs, of_four[mode], mode, 9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", EXCHANGES)
def test_killed_anywhere_in_an_upload_and_asked_for_another_set(four, runs, of_four, mode):
    killed_and_lied_to(four, runs, of_four[mode], mode, 1)
