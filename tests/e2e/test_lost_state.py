"""A site that comes back with an empty state folder, whenever in a round.

It is out of that round, never masks again under keys that it drew before, and the others go on. Where nothing of the
run has to be known it is back with the next round.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from fedsec.plan.specs import DpSpec
from fedsec.site import encrypted
from fedsec.site.store import SiteStore
from fedsec_secure.errors import AbortError, FedsecError
from fedsec_secure.identity.roster import SiteId
from tests.e2e.encrypting import InProcess
from tests.e2e.federation import Federation, Keys, Steady, loss_of, make_plan
from tests.e2e.sent import NeverTheSame, Sent
from tests.e2e.test_dropout import Flaky

LOSER = SiteId("site-b")
AHEAD = DpSpec(mode="distributed", unit="record", target_epsilon=6.0, sampling_rate=0.05, dimension=192, keys_ahead=2)
PLANS = {
    "mask": {"rounds": 2},
    "none": {"rounds": 2, "mode": "none"},
    "ahead": {"rounds": 4, "dp": AHEAD},
    "he-mask": {"rounds": 2, "mode": "he-mask"},
    "he": {"rounds": 2, "mode": "he"},
    "groups": {"rounds": 2, "rule": "group-influence", "weighting": {"cap": 0.4}},
}
MASKED = ("share", "mask", "confirm", "unmask", "verdict")
EXCHANGES = {
    "mask": ("train", *MASKED),
    "none": ("train", "plain", "verdict"),
    "ahead": ("keys", "deal", "step", "confirm", "unmask"),
    "he-mask": ("key-take", "train", *MASKED),
    "he": ("train", "encrypt", "verdict"),
    "groups": ("draw", "train", *MASKED[:-1], "sum", "verdict"),
}
UPLOAD = {"none": "plain", "ahead": "step", "he": "encrypt"}
SLOW = {"he-mask", "he", "groups", "ahead"}
"""Of which the quick lane takes the moments around the upload."""


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(5)


@pytest.fixture(scope="module")
def eight() -> Keys:
    return Keys.generate(8)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(encrypted, "EncryptionWorkers", InProcess)


class Forgets:
    """A site that loses its state folder before or after its first answer to an exchange, and starts again.

    ``ledger``: whether the privacy ledger lies elsewhere, and stays. `ask_again`: as a coordinator would that knows of
    the loss.
    """

    def __init__(self, exchange: str, when: str, ledger: bool = False) -> None:
        self.exchange, self.when, self.ledger = exchange, when, ledger
        self.federation: Federation | None = None
        self.asked: list[tuple[str, bytes]] = []
        self.again: dict[str, str] = {}
        self.lost = False

    def handle(self, name: str, body: bytes):
        if name == self.exchange and self.when == "before" and not self.lost:
            self.lose()
        reply = self.federation.agents[LOSER].handle(name, body)
        self.asked.append((name, body))
        if name == self.exchange and self.when == "after" and not self.lost:
            if isinstance(reply, Path):
                reply = Path(shutil.copy(reply, self.federation.folder / "on-its-way"))
            self.lose()
        return reply

    def lose(self) -> None:
        federation, self.lost = self.federation, True
        store, state = federation.stores[LOSER], federation.stores[LOSER].folder
        store._db.close()
        fcntl.flock(store._lock, fcntl.LOCK_UN)
        federation.ledgers[LOSER].close()
        for path in sorted(state.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif not (self.ledger and path.name.startswith("ledger")):
                path.unlink()
        federation.stores[LOSER] = SiteStore(state)
        federation._stack.callback(federation.stores[LOSER].close)
        federation.agents[LOSER] = federation._agent(LOSER)

    def ask_again(self) -> None:
        """What it answered before it lost its state, but for what begins a round."""
        for name, body in self.asked:
            if name not in ("train", "keys", "key-offer", "commit"):
                try:
                    self.federation.sent.keep(LOSER, name, body, self.federation.agents[LOSER].handle(name, body))
                    self.again[name] = "answered"
                except FedsecError as e:
                    self.again[name] = str(e)


def run(folder, keys, mode: str, loser: Forgets, others=None, **options) -> Federation:
    plan = make_plan(keys, **(PLANS[mode] | options))
    sent, more = Sent(), {"loss": loss_of} if mode == "groups" else {}
    work = Steady if mode in ("he-mask", "he") else NeverTheSame

    def wrap(site, agent):
        if site == LOSER:
            return sent.watch(site, loser)
        return sent.watch(site, others(site, agent) if others else agent)

    with Federation(folder, keys, plan, work=work, wrap=wrap, **more) as federation:
        loser.federation, federation.sent = federation, sent
        federation.run()
        loser.ask_again()
    return federation


def is_in(federation: Federation) -> list[bool]:
    return [LOSER in e["survivors"] for e in federation.events if e["event"] == "round"]


def said(federation: Federation) -> list[str]:
    events = (e for e in federation.events if e["event"] in ("lost", "refused"))
    return [e["sites"][LOSER] for e in events if LOSER in e["sites"]]


def moments() -> list:
    found = []
    for mode, exchanges in EXCHANGES.items():
        upload = UPLOAD.get(mode, "mask")
        for exchange in exchanges:
            for when in ("before", "after"):
                quick = mode not in SLOW or (exchange, when) == (upload, "after")
                found.append(pytest.param(mode, exchange, when, marks=[] if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("mode", "exchange", "when"), moments())
def test_it_is_out_of_the_round_and_masks_nothing_twice(tmp_path, keys, eight, mode, exchange, when):
    if (mode, exchange, when) == ("he-mask", "key-take", "before"):
        pytest.skip("nobody gets a key: the test below")
    loser = Forgets(exchange, when)
    federation = run(tmp_path, eight if mode == "groups" else keys, mode, loser)
    assert loser.lost
    assert federation.sent.wrong() == []
    counted = is_in(federation)
    order = EXCHANGES[mode]
    at, upload = order.index(exchange), order.index(UPLOAD.get(mode, "mask"))
    uploaded = at > upload or (exchange == order[upload] and when == "after")
    untouched = exchange == order[0] and when == "before" and mode in ("mask", "none", "ahead")
    assert counted[0] == (uploaded or untouched), "an upload that arrived whole counts, and none is made again"
    if mode == "ahead":
        assert counted[1] == untouched, "keys of the batch are gone with the rest"
    assert counted[-1] == (mode in ("mask", "none", "ahead")), "groups and encryption keys are of the run"
    reasons = said(federation)
    assert untouched == (not reasons)
    assert all("record was lost" in why for why in reasons)


def test_before_all_sites_have_the_key_no_round_begins(tmp_path, keys):
    with pytest.raises(AbortError, match="an encryption key is shared by all sites, and site-b did not answer"):
        run(tmp_path, keys, "he-mask", Forgets("key-take", "before"))


@pytest.mark.parametrize("exchange", MASKED)
def test_what_it_answered_before_it_does_not_answer_again(tmp_path, keys, exchange):
    """The requests of the round in which it lost its state, put to it once more after the run."""
    loser = Forgets(exchange, "after")
    federation = run(tmp_path, keys, "mask", loser, rounds=1)
    before = MASKED[: MASKED.index(exchange) + 1]
    assert {name: loser.again[name] for name in before}.keys() == set(before)
    assert all("record was lost" in loser.again[name] for name in before)
    assert federation.sent.wrong() == []


def silent_once(exchange: str):
    """Two others miss an exchange: the attempt is given up, and the round tried again."""
    return lambda site, agent: Flaky(agent, exchange) if site in ("site-c", "site-d") else agent


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger elsewhere", "all"])
def test_another_attempt_of_the_same_round_has_other_keys_or_none(tmp_path, keys, ledger):
    """With its ledger left it refuses: what that record released is not known. With nothing left it begins anew."""
    loser = Forgets("mask", "after", ledger)
    federation = run(tmp_path, keys, "mask", loser, silent_once("mask"))
    assert [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"] == [0]
    assert federation.sent.wrong() == []
    assert is_in(federation) == [not ledger, True]
    refused = [why for why in said(federation) if "was charged by another record of this site" in why]
    assert bool(refused) == ledger
