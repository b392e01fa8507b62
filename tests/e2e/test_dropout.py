"""Sites that fall silent and come back: at every exchange, in every mode; when a round is tried again, and when not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fedsec.plan.model import Plan
from fedsec.plan.specs import DpSpec, EvaluationSpec
from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import local_update, shared_names
from fedsec.wire import sum_parameters
from fedsec_secure.errors import (
    AbortError,
    FedsecError,
    PeerViolationError,
    StorageError,
    TransportError,
    VerificationError,
)
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, make_plan, run_once
from tests.marks import sampled

SITES = 4  # threshold and floor 3: one may be lost
MASKED = ("train", "share", "mask", "confirm", "unmask", "verdict")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@dataclass
class Flaky:
    """A site whose answer to one exchange is lost ``times`` times: before it is made, or on its way."""

    agent: object
    exchange: str
    times: int = 1
    after_work: bool = False
    error: FedsecError = field(default_factory=lambda: TransportError("connection refused"))

    def handle(self, name: str, body: bytes):
        lost = name == self.exchange and self.times > 0
        if lost and not self.after_work:
            self.times -= 1
            raise self.error
        reply = self.agent.handle(name, body)
        if lost:
            self.times -= 1
            raise self.error
        return reply


def flaky(sites: dict[str, Flaky]):
    """A wrap for Federation: the given sites' answers are lost."""

    def wrap(site, agent):
        if site not in sites:
            return agent
        sites[site].agent = agent
        return sites[site]

    return wrap


def survivors(federation: Federation) -> list[list[str]]:
    return [e["survivors"] for e in federation.events if e["event"] == "round"]


def plain_average(plan: Plan, keys: Keys, names: list[str]) -> tuple[AdapterState, np.ndarray]:
    """Initial adapter and the float64 mean of the named sites' updates, clipped."""
    works = [ArithmeticWork(n, plan) for n in names]
    initial = works[0].initial_adapter()
    updates = [
        local_update(plan.lora.strategy, initial, w.train(initial, RUN, 0, None), 0).astype(np.float64) for w in works
    ]
    clip = plan.secure.clip
    weights = np.array([w.weight() for w in works], dtype=np.float64)
    return initial, np.average(np.clip(updates, -clip, clip), axis=0, weights=weights)


@pytest.mark.parametrize("after_work", [False, True])
@pytest.mark.parametrize("exchange", MASKED)
def test_one_site_lost_at_any_exchange_and_back_in_the_next_round(tmp_path, keys, exchange, after_work):
    wrap = flaky({"site-b": Flaky(None, exchange, after_work=after_work)})
    plan = make_plan(keys)
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
        first, second = survivors(federation)
        assert ("site-b" in first) == (exchange in ("confirm", "unmask", "verdict"))
        assert len(first) == SITES - ("site-b" not in first)
        assert second == list(keys.sites)
        assert all(e["event"] != "attempt-aborted" for e in federation.events)


@pytest.mark.parametrize("strategy", ["fedit", "ffa"])
@pytest.mark.parametrize("rule", ["uniform", "size"])
@pytest.mark.parametrize("mode", ["mask", "none"])
def test_the_adapter_is_the_survivors_average_within_the_stated_bound(tmp_path, keys, mode, rule, strategy):
    upload = "mask" if mode == "mask" else "plain"
    plan = make_plan(keys, rounds=1, mode=mode, rule=rule, strategy=strategy)
    with Federation(tmp_path, keys, plan, wrap=flaky({"site-c": Flaky(None, upload)})) as federation:
        adapter = federation.run()
        (alive,) = survivors(federation)
        assert alive == ["site-a", "site-b", "site-d"]
    initial, mean = plain_average(plan, keys, alive)
    names = shared_names(strategy, initial, 0)
    bound = sum_parameters(plan, len(mean)).error_bound(3, 3 * (20 if rule == "size" else 1))
    start = initial.select(names)
    difference = np.abs(adapter.select(names) - (start + mean))
    ulp = np.spacing(np.abs(start) + np.abs(mean).astype(np.float32))
    assert (difference <= bound + ulp).all()
    assert all(np.array_equal(adapter[n], initial[n]) for n in adapter if n not in names)


def test_an_attempt_below_the_floor_is_tried_again_with_the_stored_updates(tmp_path, keys):
    lost = {"site-b": Flaky(None, "mask"), "site-c": Flaky(None, "mask", after_work=True)}
    expected = run_once(tmp_path / "calm", keys, make_plan(keys))
    with Federation(tmp_path / "stormy", keys, make_plan(keys), wrap=flaky(lost)) as federation:
        adapter = federation.run()
        aborted = [e for e in federation.events if e["event"] == "attempt-aborted"]
        assert [(e["round"], e["attempt"]) for e in aborted] == [(0, 0)]
        assert "U3 has 2 sites, 3 are needed" in aborted[0]["reason"]
        assert all(work.trained == [0, 1] for work in federation.works.values()), "a site trained twice"
    assert adapter == expected, "another attempt with the same survivors gives another adapter"


def test_attempts_end_and_the_reason_is_named(tmp_path, keys):
    lost = {s: Flaky(None, "share", times=99) for s in ("site-a", "site-d")}
    with (
        Federation(tmp_path, keys, make_plan(keys), wrap=flaky(lost)) as federation,
        pytest.raises(AbortError, match="U2 has 2 sites, 3 are needed"),
    ):
        federation.run()
    assert sum(e["event"] == "attempt-aborted" for e in federation.events) == 3
    reasons = next(e for e in federation.events if e["event"] == "lost")
    assert reasons["sites"]["site-a"] == "TransportError: connection refused"


# ---- from `confirm` on there is no other attempt: who does not answer is asked the same again


AHEAD = DpSpec(mode="distributed", unit="record", target_epsilon=6.0, sampling_rate=0.05, dimension=192, keys_ahead=2)
NO_OTHER_ATTEMPT = [
    *((exchange, {}) for exchange in ("confirm", "unmask", "verdict", "witness")),
    ("verdict", {"mode": "none"}),
    *((exchange, {"dp": AHEAD}) for exchange in ("confirm", "unmask", "verdict")),
]


def asked_of(federation: Federation, exchange: str) -> list[tuple[int, list[str]]]:
    """Attempt and sites, by time, in the first round that has this exchange."""
    asked = [e for e in federation.events if e["event"] == "exchange" and e["exchange"] == exchange]
    return [(e["attempt"], list(e["bytes_down"])) for e in asked if e["round"] == asked[0]["round"]]


@pytest.mark.parametrize("after_work", sampled((False, True), True))
@pytest.mark.parametrize(("exchange", "options"), NO_OTHER_ATTEMPT)
def test_who_is_away_from_confirm_on_is_asked_again(tmp_path, keys, exchange, options, after_work):
    plan = make_plan(keys, rounds=2, **options)
    calm = run_once(tmp_path / "calm", keys, plan) if not options else None
    away = {s: Flaky(None, exchange, 2, after_work) for s in ("site-a", "site-d")}
    with Federation(tmp_path / "away", keys, plan, wrap=flaky(away)) as federation:
        adapter = federation.run()
        assert asked_of(federation, exchange) == [(0, list(keys.sites))] + [(0, ["site-a", "site-d"])] * 2
        assert survivors(federation) == [list(keys.sites)] * 2
        assert not any(e["event"] == "attempt-aborted" for e in federation.events)
    assert calm in (None, adapter)


@pytest.mark.parametrize("after_work", sampled((False, True), True))
@pytest.mark.parametrize(("exchange", "options"), NO_OTHER_ATTEMPT)
def test_a_run_that_too_many_sites_left_at_its_end_goes_on_when_it_is_resumed(
    tmp_path, keys, exchange, options, after_work
):
    """Otherwise a network that is away at the wrong moment would end it for good: no site joins another attempt."""
    plan = make_plan(keys, rounds=2, **options)
    away = flaky({s: Flaky(None, exchange, 4, after_work) for s in ("site-a", "site-d")})
    with Federation(tmp_path, keys, plan, wrap=away) as federation:
        with pytest.raises(AbortError, match=f"2 sites, 3 are needed. A resumed run asks again for `{exchange}`"):
            federation.run()
        lost = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == exchange]
        assert [list(sites) for sites in lost] == [["site-a", "site-d"]]
    with Federation(tmp_path, keys, plan, wrap=away) as federation:
        federation.run()
        assert asked_of(federation, exchange) == [(0, list(keys.sites)), (0, ["site-a", "site-d"])]
        assert [set(s) for s in federation.journal.survivors()] == [set(keys.sites)] * 2


@pytest.mark.parametrize(
    "error", [StorageError("no room"), PeerViolationError("check 7"), AbortError("locked for 30 s")]
)
def test_a_site_that_says_no_is_asked_again_by_a_resumed_run_and_one_without_room_at_once(tmp_path, keys, error):
    """Its clock may be off, its ledger locked, its approval still on the way: the journal does not keep a no."""
    away = flaky({s: Flaky(None, "confirm", 1, error=error) for s in ("site-a", "site-d")})
    with Federation(tmp_path, keys, make_plan(keys), wrap=away) as federation:
        if isinstance(error, StorageError):
            federation.run()
            assert len(asked_of(federation, "confirm")) == 2
            return
        with pytest.raises(AbortError, match="the set of confirmations has 2 sites, 3 are needed"):
            federation.run()
        assert len(asked_of(federation, "confirm")) == 1
    with Federation(tmp_path, keys, make_plan(keys), wrap=away) as federation:
        federation.run()
        assert survivors(federation) == [list(keys.sites)] * 2


@dataclass
class Answers:
    """A site that answers one exchange with something else, once."""

    agent: object
    exchange: str
    instead: object
    times: int = 1

    def handle(self, name: str, body: bytes):
        if name == self.exchange and self.times > 0:
            self.times -= 1
            return self.instead
        return self.agent.handle(name, body)


@pytest.mark.parametrize("instead", [b"rubbish", b""])
@pytest.mark.parametrize("exchange", ["confirm", "unmask", "verdict", "witness"])
def test_a_reply_that_does_not_hold_is_not_counted(tmp_path, keys, exchange, instead):
    """Three replies to a floor of three, of which two hold: the silent site makes up for the third."""
    liar, away = Answers(None, exchange, instead), Flaky(None, exchange)
    with Federation(tmp_path, keys, make_plan(keys), wrap=flaky({"site-a": liar, "site-d": away})) as federation:
        federation.run()
        assert asked_of(federation, exchange) == [(0, list(keys.sites)), (0, ["site-d"])]


@pytest.mark.parametrize("exchange", ["train", "share", "mask", "confirm", "unmask", "verdict", "witness", "attest"])
def test_a_file_where_words_are_expected_or_words_for_a_file_lose_the_site(tmp_path, keys, exchange):
    file = tmp_path / "file"
    file.write_bytes(b"words")
    liar = Answers(None, exchange, b"words" if exchange == "mask" else file)
    with Federation(tmp_path / "run", keys, make_plan(keys), wrap=flaky({"site-a": liar})) as federation:
        runner = federation.runner()
        runner.attest(runner.rounds(federation.initial()))
        lost = next(e["sites"] for e in federation.events if e["event"] == "lost")
        assert list(lost) == ["site-a"]
        assert "it sent a file where words were asked for" in lost["site-a"]


def test_a_baseline_that_does_not_parse_leaves_the_site_out(tmp_path, keys):
    read: list[bytes] = []

    def second_fails(data: bytes) -> bytes:
        read.append(data)
        if len(read) == 2:
            raise VerificationError("a baseline's scores do not parse")
        return data

    plan = make_plan(keys, rounds=1, evaluation=EvaluationSpec(baselines=("single",)))
    with Federation(tmp_path, keys, plan) as federation:
        runner = federation.runner()
        runner.rounds(federation.initial())
        assert set(runner.baselines(second_fails)) == set(keys.sites) - {"site-b"}


# ---- one answer per exchange, for ever


@pytest.mark.parametrize(
    ("exchange", "options"),
    [("train", {}), ("mask", {}), ("plain", {"mode": "none"}), ("keys", {"dp": AHEAD}), ("step", {"dp": AHEAD})],
)
def test_a_run_that_too_many_sites_were_away_from_goes_on_when_it_is_resumed(tmp_path, keys, exchange, options):
    """Otherwise an hour without a network at two hospitals would end it for good: the journal knows three attempts."""
    plan = make_plan(keys, rounds=2, **options)
    away = {name: Flaky(None, exchange, 9) for name in ("site-b", "site-c")}
    for _ in range(2):
        with (
            Federation(tmp_path, keys, plan, wrap=flaky(away)) as federation,
            pytest.raises(AbortError, match="It was tried 3 times; a resumed run tries again"),
        ):
            federation.run()
    with Federation(tmp_path, keys, plan) as federation:
        federation.run()
        assert survivors(federation) == [list(keys.sites)] * 2
        aborted = [e["attempt"] for e in federation.events if e["event"] == "attempt-aborted"]
    assert aborted == [0, 1, 2, 3, 4, 5]
