"""A site that is killed between any two writes never sends a second answer under the keys of the first.

The coordinator knows that it crashed and lies to it first: a smaller set, or the next attempt of the round.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from fedsec.attacks.build import ThisBuild
from fedsec.attacks.lab import SITES, VICTIM, Lab, make_world, roster_of
from fedsec.attacks.play import Play, body_of, header_of
from fedsec.wire import TrainRequest
from fedsec_secure.codec import seal
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.messages import MaskRequest, decode_packets, encode_packets
from fedsec_secure.masking.parameters import RoundContext
from tests.e2e.killed_site import KilledSite

LAST = SITES[-1]


def smaller_set(world):
    """The same request without the last site."""

    def lie(name: str, body: bytes):
        if name == "mask":
            request = MaskRequest.decode(body_of(body))
            kept = [s for s in request.dealings if s != LAST]
            other = MaskRequest({s: request.dealings[s] for s in kept}, {s: request.sealed[s] for s in kept}).encode()
        elif name in ("share", "confirm", "unmask"):
            other = encode_packets({s: p for s, p in decode_packets(body_of(body), "test").items() if s != LAST})
        else:
            return None
        return name, seal(f"{name}-request", COORDINATOR, header_of(body).context, other, world.coordinator.sign)

    return lie


def next_attempt(world):
    """`train` of attempt 1, whatever the site was at."""

    def lie(name: str, body: bytes):
        plan, roster, start = world.plan.digest(), roster_of(world), world.start
        context = RoundContext(plan, "attack-1", 0, 1, roster, start.digest()).digest()
        request = TrainRequest("attack-1", 0, 1, start.to_bytes(), {}).encode()
        return "train", seal("train-request", COORDINATOR, context, request, world.coordinator.sign)

    return lie


def round_with_a_crash(folder, kill_at: int | None, lie) -> KilledSite:
    """One round; what the victim said, and how often it died."""
    world = make_world()
    with Lab(ThisBuild(), world, folder / "others") as lab:
        lab.sites[VICTIM].close()
        victim = lab.sites[VICTIM] = KilledSite(world, folder / "victim", kill_at, lie(world))
        play = Play(lab)
        play.begin(SITES)
        play.reveal(sorted(play.uploads))
        opened = play.open_sum(sorted(play.uploads))
        if opened is not None:
            play.verdict(SITES, play.heads(sorted(play.uploads)), *opened)
    return victim


def second_answers(victim: KilledSite) -> list[str]:
    """What contradicts this: one reply an exchange and attempt, none of another attempt once survivors are signed."""
    found = []
    answers: dict[tuple[str, bytes], set[bytes]] = defaultdict(set)
    confirmed = False
    for name, reply in victim.got:
        context = b"" if name == "share" else header_of(reply).context
        answers[name, context].add(reply)
        if confirmed and name == "train":
            found.append("a new attempt after a signed survivor set")
        confirmed |= name == "confirm"
    attempts = [key for key in answers if key[0] == "train"]
    for (name, _), replies in answers.items():
        if len(replies) > 1 and not (name == "share" and len(attempts) > 1):
            found.append(f"two answers to {name}")
    for name in ("commit", "reveal", "draw", "mask", "confirm", "unmask", "sum", "verdict"):
        per_round = [key for key in answers if key[0] == name]
        if len(per_round) > (len(attempts) if name == "mask" else 1):
            found.append(f"{name} twice")
    return found


@pytest.fixture(scope="module")
def moments(tmp_path_factory) -> list[str]:
    """What happens at the site in an undisturbed round."""
    calm = round_with_a_crash(tmp_path_factory.mktemp("calm"), None, smaller_set)
    assert [name for name, _ in calm.got] == ["train", "share", "mask", "confirm", "unmask", "verdict"]
    assert sum("sql INSERT INTO stages" in m for m in calm.moments) == 6
    return calm.moments


def kill_at_each(folder, moments: list[str], lie, step: int) -> dict[str, tuple[int, list[str]]]:
    """By moment: how often the site died, and what it said twice."""
    found = {}
    for number in range(0, len(moments), step):
        victim = round_with_a_crash(folder / str(number), number, lie)
        found[moments[number]] = victim.deaths, second_answers(victim)
    return found


@pytest.mark.parametrize("lie", [smaller_set, next_attempt])
def test_killed_at_sampled_moments(tmp_path, moments, lie):
    found = kill_at_each(tmp_path, moments, lie, 13)
    assert found == dict.fromkeys(moments[::13], (1, []))


@pytest.mark.slow
@pytest.mark.parametrize("lie", [smaller_set, next_attempt])
def test_killed_at_every_moment(tmp_path, moments, lie):
    found = kill_at_each(tmp_path, moments, lie, 1)
    assert found == dict.fromkeys(moments, (1, []))
