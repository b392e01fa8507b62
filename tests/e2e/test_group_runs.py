"""Whole runs weighed by the losses of decrypted group sums: against the plain computation, with dropouts and kills."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest

from fedsec.plan.model import Plan
from fedsec.training.adapter import AdapterState
from fedsec.training.group_step import group_rule
from fedsec.training.public_step import adapter_of, after_sum
from fedsec.training.strategies import local_update
from fedsec.wire import sum_parameters
from fedsec_secure.codec import head_length, seal, sha256
from fedsec_secure.errors import AbortError, FedsecError, TransportError
from fedsec_secure.masking.draw import commitment
from fedsec_secure.masking.group_messages import CombineRequest
from fedsec_secure.masking.site_draw import SiteCommitted
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.record.entries import AggregateEntry, DrawEntry, ScoresEntry, SurvivorsEntry, decode_entry
from fedsec_secure.secrets import SecretBytes
from fedsec_secure.weighting.groups import shares
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, Steady, loss_of, make_plan, run_once
from tests.e2e.test_dropout import Flaky, flaky
from tests.marks import sampled

SITES = 8
NAMES = [f"site-{c}" for c in "abcdefgh"]
EXCHANGES = ("commit", "reveal", "draw", "train", "share", "mask", "confirm", "unmask", "sum", "verdict")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


def group_plan(keys, **options):
    return make_plan(keys, **({"rule": "group-influence", "weighting": {"cap": 0.4}, "rounds": 1} | options))


def opened(folder, keys, plan, **options) -> Federation:
    return Federation(folder, keys, plan, **({"loss": loss_of} | options))


def said(federation: Federation, event: str) -> list[dict]:
    return [e for e in federation.events if e["event"] == event]


def entries(federation: Federation, kind: type) -> list:
    leaves = federation.runner().log._file.entries
    return [e for e in leaves if isinstance(e, kind)]


def updates(plan, adapter: AdapterState, names, number: int = 0, work=ArithmeticWork) -> dict[str, np.ndarray]:
    strategy = plan.lora.strategy
    trained = {n: work(n, plan).train(adapter, RUN, number, None) for n in names}
    return {n: local_update(strategy, adapter, t, number).astype(np.float64) for n, t in trained.items()}


@pytest.mark.parametrize("lost", sampled((None, "mask", "train"), "mask"))
def test_the_adapter_is_what_known_updates_give(tmp_path, keys, lost):
    """Weights from the losses of the group means, cut to the cap, times the step: within the stated rounding."""
    plan = group_plan(keys)
    wrap = flaky({"site-c": Flaky(None, lost)}) if lost else lambda site, agent: agent
    with opened(tmp_path, keys, plan, wrap=wrap) as federation:
        start = federation.initial()
        adapter = federation.run()
        (found,) = said(federation, "groups")
        drawn = federation.stores["site-a"].draws.groups(RUN)
    survivors = found["groups"]
    assert sorted(s for g in survivors for s in g) == [n for n in NAMES if n != "site-c" or lost is None]
    known = updates(plan, start, NAMES)
    means = [np.mean([np.clip(known[s], -0.5, 0.5) for s in group], axis=0) for group in survivors]
    parameters = sum_parameters(plan, len(means[0]))
    levels = [level_of(loss_of(start.unflatten((start.flatten() + m).astype(np.float32)))) for m in means]
    assert all(abs(a - b) <= 1 for a, b in zip(levels, found["levels"], strict=True))
    counts = [len(group) for group in survivors]
    weights = group_rule(plan).weigh(counts, found["levels"])
    assert found["weights"] == list(weights)
    assert len(set(weights)) == 2, "the rule does something"
    assert max(weights) <= Fraction("0.4") * sum(n * w for n, w in zip(counts, weights, strict=True))
    mean = sum(float(share) * m for share, m in zip(shares(counts, weights), means, strict=True)) * found["step"]
    bound = 1.5 * max(parameters.error_bound(n, n) for n in counts) + 1e-6
    assert np.abs(adapter.flatten() - (start.flatten() + mean)).max() <= bound
    assert [set(g) >= set(s) for g, s in zip(drawn, survivors, strict=True)] == [True, True]


def test_where_no_loss_is_a_number_all_weigh_the_same(tmp_path, keys):
    with opened(tmp_path, keys, group_plan(keys), loss=lambda adapter: math.nan) as federation:
        federation.run()
        (found,) = said(federation, "groups")
    assert len(set(found["weights"])) == 1
    assert found["step"] == 1.0


def test_two_rounds_and_what_the_log_has(tmp_path, keys):
    plan = group_plan(keys, rounds=2)
    with opened(tmp_path, keys, plan) as federation:
        federation.run()
        (drawn,) = entries(federation, DrawEntry)
        own = federation.stores["site-a"].draws
        assert drawn.groups == own.groups(RUN)
        sets = entries(federation, SurvivorsEntry)
        assert [e.round for e in sets] == [0, 0, 1, 1]
        assert [set(e.sites) for e in sets] == [set(g) for g in drawn.groups] * 2
        assert len(entries(federation, AggregateEntry)) == len(entries(federation, ScoresEntry)) == 2
        assert list(own.all_scores(RUN)) == [0, 1]
        leaves = federation.runner().log._file.entries
        assert all(decode_entry(e.leaf_data()) == e for e in leaves)
        asked = [e["exchange"] for e in said(federation, "exchange")]
        assert all(len(e["bytes_down"]) == SITES for e in said(federation, "exchange")), "groups are asked together"
    assert asked == [*EXCHANGES, "witness", *EXCHANGES[2:], "witness", "attest", "witness"]


@pytest.mark.parametrize("exchange", sampled(EXCHANGES[2:], "mask", "verdict"))
def test_one_site_of_each_group_may_be_lost(tmp_path, keys, exchange):
    """Of four, three stay. Who is lost before its upload is not in the sum; afterwards it is."""
    plan = group_plan(keys, rounds=2)
    lost: dict[str, bool] = {}

    class Drops:
        def __init__(self, site, agent):
            self.site, self.agent = site, agent

        def handle(self, name, body):
            groups = federation.stores[self.site].draws.groups(RUN)
            if (
                name == exchange
                and exchange != "draw"
                and not lost.get(self.site)
                and self.site
                in (
                    groups[0][0],
                    groups[1][0],
                )
            ):
                lost[self.site] = True
                raise TransportError("connection refused")
            if name == "draw" == exchange and self.site in ("site-a",) and not lost.get(self.site):
                lost[self.site] = True
                raise TransportError("connection refused")
            return self.agent.handle(name, body)

    with opened(tmp_path / "stormy", keys, plan, wrap=Drops) as federation:
        federation.run()
        finished = said(federation, "round")
        assert [e["round"] for e in finished] == [0, 1]
        there = len(finished[0]["survivors"])
        gone = 0 if exchange in ("confirm", "unmask", "sum", "verdict") else len(lost)
        assert there == SITES - gone
        assert len(lost) == (1 if exchange == "draw" else 2)
        assert len(finished[1]["survivors"]) == SITES


@dataclass
class TwoAway:
    """Two sites of the first group do not get one exchange, ``times`` times each."""

    federation: Callable[[], Federation]
    exchange: str
    times: int = 1
    lost: Counter[str] = field(default_factory=Counter)

    def wrap(self, site: str, agent):
        away = self

        class Away:
            def handle(self, name, body):
                groups = away.federation().stores[site].draws.groups(RUN) if name == away.exchange else None
                if groups and site in groups[0][:2] and away.lost[site] < away.times:
                    away.lost[site] += 1
                    raise TransportError("connection refused")
                return agent.handle(name, body)

        return Away()


def test_two_lost_sites_of_one_group_end_the_attempt_for_all(tmp_path, keys):
    away = TwoAway(lambda: federation, "mask")
    with opened(tmp_path, keys, group_plan(keys), wrap=away.wrap) as federation:
        federation.run()
        (aborted,) = said(federation, "attempt-aborted")
        assert "U3 has 2 sites, 3 are needed" in aborted["reason"]
        assert len(said(federation, "round")[0]["survivors"]) == SITES
        assert all(work.trained == [0] for work in federation.works.values())


def test_a_threshold_above_the_floors_of_all_groups_holds_before_sums_are_opened(tmp_path, keys):
    """One lost site is within its group's floor and not within the plan's: another attempt, not a verdict refused."""
    plan = group_plan(keys)
    plan = Plan(**{**dict(plan), "secure": plan.secure.model_copy(update={"threshold": SITES})})
    with opened(tmp_path, keys, plan, wrap=flaky({"site-a": Flaky(None, "mask")})) as federation:
        federation.run()
        (aborted,) = said(federation, "attempt-aborted")
        assert "U3 of all groups has 7 sites, 8 are needed" in aborted["reason"]
        assert len(said(federation, "round")[0]["survivors"]) == SITES


@pytest.mark.parametrize("exchange", ["confirm", "unmask", "sum"])
def test_two_lost_sites_of_one_group_are_asked_again_where_no_attempt_can_follow(tmp_path, keys, exchange):
    """Of eight sites six answered, more than the plan's floor; of the first group two."""
    away = TwoAway(lambda: federation, exchange, times=4)
    with opened(tmp_path / "away", keys, group_plan(keys), wrap=away.wrap) as federation:
        with pytest.raises(AbortError, match=f"2 sites, 3 are needed. A resumed run asks again for `{exchange}`"):
            federation.run()
        asked = [len(e["bytes_down"]) for e in said(federation, "exchange") if e["exchange"] == exchange]
        assert asked == [8, 2, 2]
    with opened(tmp_path / "away", keys, group_plan(keys), wrap=away.wrap) as federation:
        federation.run()
        assert len(said(federation, "round")[0]["survivors"]) == SITES
        asked = [len(e["bytes_down"]) for e in said(federation, "exchange") if e["exchange"] == exchange]
        assert asked == [8, 2]
        assert not said(federation, "attempt-aborted")


def test_a_site_that_is_missing_at_the_draw_is_asked_again_and_without_it_nothing_begins(tmp_path, keys):
    plan = group_plan(keys)
    once = flaky({"site-b": Flaky(None, "reveal")})
    with opened(tmp_path / "once", keys, plan, wrap=once) as federation:
        federation.run()
        asked = [e for e in said(federation, "exchange") if e["exchange"] == "reveal"]
        assert [len(e["bytes_down"]) for e in asked] == [SITES, 1]
    away = flaky({"site-b": Flaky(None, "reveal", times=99)})
    with opened(tmp_path / "away", keys, plan, wrap=away) as federation:
        with pytest.raises(AbortError, match="site-b did not answer `reveal`"):
            federation.run()
        assert all(not work.trained for work in federation.works.values())
    with opened(tmp_path / "away", keys, plan) as federation:
        federation.run()
        assert said(federation, "round")


@pytest.mark.parametrize("exchange", sampled(EXCHANGES, "sum"))
def test_stopped_after_an_exchange_and_opened_again_it_ends_the_same(tmp_path, keys, exchange, monkeypatch):
    """Coordinator and all sites are opened anew over their folders, and the run ends with the same bits."""

    def begin(me, context, sign):
        """Nonces are drawn once, so that two runs have one draw."""
        nonce = SecretBytes(sha256(me.encode()))
        packet = seal("commit", me, context, commitment(context, me, nonce.reveal()), sign)
        return SiteCommitted(me, context, nonce, packet)

    monkeypatch.setattr(SiteCommitted, "begin", staticmethod(begin))
    plan = group_plan(keys, rounds=2)
    expected = run_once(tmp_path / "calm", keys, plan, loss=loss_of)

    class Stopped(BaseException):
        """Ctrl-C."""

    class Stop:
        def __init__(self, transport):
            self.transport, self.seen = transport, 0

        def exchange(self, asked, spool):
            outcome = self.transport.exchange(asked, spool)
            if asked.name == exchange:
                self.seen += 1
                if self.seen == (1 if exchange in ("commit", "reveal") else 2):
                    raise Stopped
            return outcome

    with opened(tmp_path, keys, plan, carry=Stop) as federation, pytest.raises(Stopped):
        federation.run()
    measured = []

    def counted(adapter):
        measured.append(adapter.digest())
        return loss_of(adapter)

    with opened(tmp_path, keys, plan, loss=counted) as federation:
        adapter = federation.run()
    assert len(measured) == len(set(measured))
    assert adapter == expected


@pytest.mark.parametrize("strategy", sampled(("ffa", "rolora", "fedsvd", "fed-sb"), "fed-sb"))
def test_other_strategies(tmp_path, keys, strategy):
    """Two rounds, from known updates, with the weights and steps that the run itself came to."""
    plan = group_plan(keys, strategy=strategy, rounds=2)
    with opened(tmp_path, keys, plan, work=Steady) as federation:
        state = federation.initial()
        adapter = federation.run()
        found = said(federation, "groups")
    bound = 0.0
    for number, event in enumerate(found):
        known = updates(plan, state, NAMES, number, Steady)
        counts = [len(group) for group in event["groups"]]
        means = [np.mean([np.clip(known[s], -0.5, 0.5) for s in group], axis=0) for group in event["groups"]]
        by_group = zip(shares(counts, event["weights"]), means, strict=True)
        mean = sum(float(share) * m for share, m in by_group) * event["step"]
        parameters = sum_parameters(plan, len(mean))
        bound += 1.5 * max(parameters.error_bound(n, n) for n in counts) + 1e-6
        state = after_sum(plan, number, state, mean.astype(np.float32))
    assert len(found) == 2
    expected, start = adapter_of(state), adapter_of(federation.initial())
    largest = max(float(np.abs(t).max()) for t in expected.values())
    assert np.abs(adapter.flatten() - expected.flatten()).max() <= bound * max(1.0, 8 * largest)
    assert np.abs(adapter.flatten() - start.flatten()).max() > 100 * bound


def test_a_run_needs_a_loss_at_the_coordinator(tmp_path, keys):
    with opened(tmp_path, keys, group_plan(keys), loss=None) as federation, pytest.raises(FedsecError, match="valid"):
        federation.run()


def test_no_groups_sum_is_on_a_disk_once_its_round_is_over(tmp_path, keys):
    """What nobody has, nobody can score again: the coordinator's word about losses stays its word."""
    shown: list[bytes] = []

    class Shown:
        """Keeps what a site is shown of all groups in the last round."""

        def __init__(self, site, agent):
            self.agent = agent

        def handle(self, name, body):
            if name == "verdict":
                packet = body[head_length(body) :]
                shown[:] = [bytes(words) for words in CombineRequest.decode(packet).words]
            return self.agent.handle(name, body)

    with opened(tmp_path, keys, group_plan(keys, rounds=2), wrap=Shown) as federation:
        federation.run()
        own = federation.stores["site-a"].update(RUN, 0)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]

    def is_kept(data: bytes) -> bool:
        """Any 32 bytes of it, wherever they stand."""
        return any(data[at : at + 32] in file for at in range(0, len(data) - 31, 32) for file in written)

    assert is_kept(own.values.tobytes()), "the search finds what is there"
    assert len(shown) == 2
    assert [is_kept(words) for words in shown] == [False, False]
