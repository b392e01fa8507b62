"""Every pair of stage and exchange: answered where the table has it, refused by the record where it has not."""

from __future__ import annotations

import importlib.util
from itertools import product
from pathlib import Path

import pytest

from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.masking.transitions import GROUPED, MASKED, PLAIN, SEALED, Stage, Table, Transition

DOCS = Path(__file__).parents[2] / "docs"
TABLES = {"mask": MASKED, "none": PLAIN, "groups": GROUPED, "he": SEALED}
PAIRS = [
    (mode, stage, exchange, attempt)
    for mode, table in TABLES.items()
    for stage, exchange, attempt in product(table.stages, table.exchanges, (0, 1))
]


def reach(store: SiteStore, table: Table, stage: Stage) -> None:
    """Answer what leads to a stage, in attempt 0 of round 0."""
    store.runs.begin("run", bytes(32), frozenset({"a"}), 1)
    store.start_round("run", 0, bytes(32), b"adapter")
    place = Place("run", 0, 0)
    for exchange in table.exchanges:
        if store.answers.stage(place, table)[1] == stage:
            return
        store.answers.claim(place, exchange, table)
        store.answers.save(place, exchange, bytes(32), exchange.encode(), b"record", b"reply")
    assert store.answers.stage(place, table)[1] == stage


@pytest.mark.parametrize(("mode", "stage", "exchange", "attempt"), PAIRS)
def test_the_record_lets_through_what_the_table_has_and_nothing_else(tmp_path, mode, stage, exchange, attempt):
    table, store = TABLES[mode], SiteStore(tmp_path / "state")
    reach(store, table, stage)
    # From NEW whatever the attempt: a site may have been away in the ones before.
    legal = table.is_legal(stage, exchange, attempt=attempt > 0 and stage is not Stage.NEW)
    if legal:
        store.answers.claim(Place("run", 0, attempt), exchange, table)
    else:
        with pytest.raises(PeerViolationError, match=r"this site is|is over here"):
            store.answers.claim(Place("run", 0, attempt), exchange, table)
    store.close()


@pytest.mark.parametrize("mode", TABLES)
def test_an_older_attempt_is_never_answered(tmp_path, mode):
    table, store = TABLES[mode], SiteStore(tmp_path / "state")
    reach(store, table, Stage.STATED)
    store.answers.claim(Place("run", 0, 2), "train", table)
    store.answers.save(Place("run", 0, 2), "train", b"c" * 32, b"later", b"record", b"reply")
    for exchange in table.exchanges:
        with pytest.raises(PeerViolationError, match="moved on from attempt"):
            store.answers.claim(Place("run", 0, 1), exchange, table)
    store.close()


def test_the_masked_table_is_that_of_the_protocol():
    """Written out once more, by hand: a change of the table is a change of the protocol."""
    chain = ["new", "train", "stated", "share", "shared", "mask", "masked", "confirm", "confirmed"]
    chain += ["unmask", "revealed", "verdict", "over"]
    steps = {(chain[i], chain[i + 1], chain[i + 2], False) for i in range(0, len(chain) - 2, 2)}
    again = {(stage, "train", "stated", True) for stage in ("stated", "shared", "masked")}
    assert {(t.before, t.exchange, t.after, t.attempt) for t in MASKED.transitions} == steps | again
    assert all(not MASKED.is_legal(s, "train", attempt=True) for s in (Stage.CONFIRMED, Stage.REVEALED, Stage.OVER))
    assert [MASKED.continued_by(e) for e in MASKED.exchanges[1:]] == list(MASKED.exchanges[:-1])


@pytest.mark.parametrize(
    "transitions",
    [
        [("train", Stage.NEW, Stage.STATED), ("train", Stage.NEW, Stage.STATED)],
        [("train", Stage.NEW, Stage.STATED), ("train", Stage.STATED, Stage.SHARED)],
    ],
)
def test_a_table_that_says_two_things_is_refused(transitions):
    with pytest.raises(LocalMisuseError, match="one end for each exchange"):
        Table(tuple(Transition(*t) for t in transitions))


def test_the_diagrams_in_the_protocol_are_those_of_the_tables():
    spec = importlib.util.spec_from_file_location("make_states", DOCS / "make_states.py")
    assert spec is not None
    assert spec.loader is not None
    make_states = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_states)
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert make_states.drawn(page) == page, "run: python docs/make_states.py"
