"""A site of a run in groups that is killed between any two writes draws once, and signs one sum and one verdict.

The coordinator knows that it crashed and lies to it first: other commitments, other nonces, a smaller set, another sum,
other losses, or the next attempt of the round in its group.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.lab import GROUP_SITES, VICTIM, Finished, Lab, World, make_world
from fedsec.attacks.play import RUN, body_of, header_of
from fedsec.training.adapter import AdapterState
from fedsec.wire import TrainRequest, VerdictRequest, core_roster
from fedsec_secure.codec import seal, seal_parts
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.draw import commitment, draw_context, drawn_groups, group_roster
from fedsec_secure.masking.group_messages import CombineRequest, Scores
from fedsec_secure.masking.messages import MaskRequest, decode_packets, encode_packets
from fedsec_secure.masking.parameters import RoundContext
from tests.e2e.killed_site import KilledSite
from tests.e2e.test_killed_site import second_answers

COLLUDER = GROUP_SITES[-1]
EXCHANGES = ("commit", "reveal", "draw", "train", "share", "mask", "confirm", "unmask", "sum", "verdict", "witness")


@dataclass
class Victim:
    """The killed site between an honest coordinator's engine and its own lies; it hands uploads over as files."""

    killed: KilledSite
    folder: Path
    seen: dict[str, bytes] = field(default_factory=dict)

    def handle(self, name: str, body: bytes) -> bytes | Path:
        self.seen[name] = body
        reply = self.killed.handle(name, body)
        if name != "mask":
            return reply
        path = self.folder / f"{header_of(reply).context.hex()}.upload"
        path.write_bytes(reply)
        return path


def other_sets(world: World, seen: dict[str, bytes]):
    """The same exchange about something else."""

    def with_commitment(body: bytes) -> bytes:
        context = header_of(body).context
        sign = world.keys[COLLUDER].sign
        again = seal("commit", COLLUDER, context, commitment(context, COLLUDER, bytes(32)), sign)
        return encode_packets(decode_packets(body_of(body), "test") | {COLLUDER: again})

    def with_nonce(body: bytes) -> bytes:
        other = seal("reveal", COLLUDER, header_of(body).context, bytes(32), world.keys[COLLUDER].sign)
        return encode_packets(decode_packets(body_of(body), "test") | {COLLUDER: other})

    def smaller(body: bytes) -> bytes:
        packets = decode_packets(body_of(body), "test")
        return encode_packets({s: packets[s] for s in _without_last(packets)})

    def smaller_masks(body: bytes) -> bytes:
        request = MaskRequest.decode(body_of(body))
        kept = _without_last(request.dealings)
        return MaskRequest({s: request.dealings[s] for s in kept}, {s: request.sealed[s] for s in kept}).encode()

    def with_sum(body: bytes) -> bytes:
        request = VerdictRequest.decode(body_of(body))
        return b"".join(VerdictRequest(request.heads, request.tag, bytes(len(request.words))).parts())

    def with_losses(body: bytes) -> bytes:
        request = CombineRequest.decode(body_of(body))
        said = Scores.decode(body_of(request.scores))
        other = Scores(said.sums, tuple(80 - level for level in said.levels), said.quarters).encode()
        scores = seal("scores", COORDINATOR, header_of(body).context, other, world.coordinator.sign)
        return b"".join(map(bytes, CombineRequest(scores, request.signed, request.words).parts()))

    changed = {"reveal": with_commitment, "draw": with_nonce, "share": smaller, "mask": smaller_masks}
    changed |= {"confirm": smaller, "unmask": smaller, "sum": with_sum, "verdict": with_losses}

    def lie(name: str, body: bytes):
        if name not in changed:
            return None
        parts = [changed[name](body)]
        return name, seal_parts(f"{name}-request", COORDINATOR, header_of(body).context, parts, world.coordinator.sign)

    return lie


def _without_last(sites) -> list[str]:
    others = sorted(site for site in sites if site != VICTIM)
    return [*others[:-1], VICTIM]


def next_attempt(world: World, seen: dict[str, bytes]):
    """`train` of attempt 1 in the site's group, whatever it was at."""

    def lie(name: str, body: bytes):
        if "train" not in seen:
            return None
        plan, roster, start = world.plan, core_roster(world.plan), world.start
        context = draw_context(plan.digest(), RUN, roster.digest())
        commitments, reveals = (decode_packets(body_of(seen[name]), "test") for name in ("reveal", "draw"))
        groups = drawn_groups(reveals, commitments, context, roster, 2)
        mine = group_roster(groups, VICTIM, roster).digest()
        bound = RoundContext(plan.digest(), RUN, 0, 1, mine, start.digest()).digest()
        request = TrainRequest(RUN, 0, 1, start.to_bytes(), {}).encode()
        return "train", seal("train-request", COORDINATOR, bound, request, world.coordinator.sign)

    return lie


def a_world() -> World:
    """The coordinator's losses differ between groups."""
    world = make_world(rounds=1, rule="group-influence", sites=GROUP_SITES)
    start = world.start.flatten()

    def loss(adapter: AdapterState) -> float:
        return 1.0 + float(np.abs(adapter.flatten() - start)[:9].sum())

    return replace(world, loss=loss)


def run_with_a_crash(folder: Path, kill_at: int | None, lie) -> tuple[KilledSite, Finished | None]:
    """A run of one round: what the victim said and how often it died, and what came of the round."""
    world = a_world()
    with Lab(ThisBuild(), world, folder / "others") as lab:
        lab.sites[VICTIM].close()
        seen: dict[str, bytes] = {}
        killed = lab.sites[VICTIM] = KilledSite(world, folder / "victim", kill_at, lie(world, seen))
        finished = lab.honest_round({**lab.sites, VICTIM: Victim(killed, folder, seen)})
    return killed, finished


@pytest.fixture(scope="module")
def moments(tmp_path_factory) -> list[str]:
    """What happens at the site in an undisturbed run."""
    calm, finished = run_with_a_crash(tmp_path_factory.mktemp("calm"), None, other_sets)
    assert finished is not None
    assert [name for name, _ in calm.got] == list(EXCHANGES)
    assert sum("sql INSERT INTO stages" in m for m in calm.moments) == 7
    assert sum("draws" in m for m in calm.moments) == 3
    return calm.moments


def killed_at(folder: Path, moments: list[str], numbers, lie) -> None:
    found = {}
    for number in numbers:
        victim, _ = run_with_a_crash(folder / str(number), number, lie)
        found[moments[number]] = victim.deaths, second_answers(victim)
    assert found == {moments[number]: (1, []) for number in numbers}


def test_a_site_that_died_before_it_opened_its_nonce_opens_it_once(tmp_path, moments):
    """The lie comes first and is a good one: the site takes it, and then has nothing for the honest set."""
    number = next(i for i, label in enumerate(moments) if "UPDATE draws SET opened" in label)
    victim, finished = run_with_a_crash(tmp_path, number, other_sets)
    assert victim.deaths == 1
    assert finished is None, "without its nonce for the honest set nothing is drawn"
    assert [name for name, _ in victim.got] == ["commit", "reveal"]


def test_a_site_that_died_before_its_verdict_gives_one(tmp_path, moments):
    """On the losses of the lie; it then cosigns no log with others."""
    number = next(i for i, label in enumerate(moments) if "INSERT OR REPLACE INTO scores" in label)
    victim, finished = run_with_a_crash(tmp_path, number, other_sets)
    assert victim.deaths == 1
    assert finished is not None
    assert "the log has other scores of round 0 than this site was shown" in finished.named[VICTIM]
    assert [name for name, _ in victim.got if name == "verdict"] == ["verdict"]
    assert second_answers(victim) == []


def test_a_site_that_died_while_it_signed_its_groups_sum_joins_no_other_attempt(tmp_path, moments):
    stages = [i for i, label in enumerate(moments) if "INSERT INTO stages" in label]
    killed_at(tmp_path, moments, [stages[5]], next_attempt)


@pytest.mark.slow
@pytest.mark.parametrize("lie", [other_sets, next_attempt])
def test_killed_at_every_moment(tmp_path, moments, lie):
    killed_at(tmp_path, moments, range(len(moments)), lie)
