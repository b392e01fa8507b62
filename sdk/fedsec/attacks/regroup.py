"""Attacks on groups and their weights: who chooses among whom a site hides, and what a group's sum is worth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fedsec.attacks.lab import GROUP_CAP, GROUP_SITES, VICTIM, Lab, Site, Target, World, make_world
from fedsec.attacks.outcome import Got, broken, held
from fedsec.attacks.play import RUN, body_of, header_of
from fedsec.attacks.skew import share_of
from fedsec.training.adapter import AdapterState
from fedsec.wire import TrainRequest, core_roster
from fedsec_secure.codec import Writer, seal, seal_parts, sha256
from fedsec_secure.errors import FedsecError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.draw import commitment, draw_context, opened_context, roster_of_group
from fedsec_secure.masking.group_messages import CombineRequest
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.masking.parameters import RoundContext

COLLUDERS = GROUP_SITES[2:4]
_TRIES = 12


@dataclass
class _Draw:
    """The coordinator's hands at the draw of one run id."""

    lab: Lab
    run: str = RUN
    commitments: dict[SiteId, bytes] = field(default_factory=dict)
    reveals: dict[SiteId, bytes] = field(default_factory=dict)

    @property
    def context(self) -> bytes:
        plan = self.lab.world.plan
        return draw_context(plan.digest(), self.run, core_roster(plan).digest())

    def ask(self, name: str, site: SiteId, body: bytes) -> bytes | None:
        bound = opened_context(self.context, self.commitments) if name == "draw" else self.context
        return self.lab.ask(
            name, site, seal(f"{name}-request", COORDINATOR, bound, body, self.lab.world.coordinator.sign)
        )

    def collect(self, name: str, body: bytes) -> dict[SiteId, bytes]:
        got = {site: self.ask(name, site, body) for site in GROUP_SITES}
        return {site: reply for site, reply in got.items() if reply is not None}

    def commit(self) -> None:
        self.commitments |= self.collect("commit", Writer().text(self.run).done())

    def reveal(self) -> None:
        self.reveals |= self.collect("reveal", encode_packets(self.commitments))

    def drawn(self) -> bytes | None:
        """The digest of the groups that the victim says it drew."""
        reply = self.ask("draw", VICTIM, encode_packets(self.reveals))
        return None if reply is None else body_of(reply)


def redraw(target: Target, folder: Path) -> Got:
    """Within one run id a colluder commits and opens again and again, until the groups suit."""
    with Lab(target, _world(), folder) as lab:
        draw, colluder, found = _Draw(lab), COLLUDERS[0], set[bytes]()
        for number in range(_TRIES):
            draw.commit()
            nonce = sha256(number.to_bytes(4, "big"))
            sign = lab.world.keys[colluder].sign
            if number:
                again = seal("commit", colluder, draw.context, commitment(draw.context, colluder, nonce), sign)
                draw.commitments[colluder] = again
            draw.reveal()
            if number:
                bound = opened_context(draw.context, draw.commitments)
                draw.reveals[colluder] = seal("reveal", colluder, bound, nonce, sign)
            groups = draw.drawn()
            found |= {groups} if groups is not None else set()
        if not found:
            return broken(f"an honest draw did not come about: {lab.why}")
        return broken(f"{len(found)} draws of one run id") if len(found) > 1 else held(lab.why)


def new_run_ids(target: Target, folder: Path) -> Got:
    """The coordinator throws a run id away, once it has seen all nonces, and starts with another one."""
    with Lab(target, _world(), folder) as lab:
        opened = 0
        for number in range(_TRIES):
            draw = _Draw(lab, f"{RUN}-{number}")
            draw.commit()
            draw.reveal()
            opened += VICTIM in draw.reveals
        text = f"{opened} of {_TRIES} run ids were drawn"
        return broken(text) if opened == _TRIES else held(f"{text}: {lab.why}")


def sham_groups(target: Target, folder: Path) -> Got:
    """After an honest draw the victim is asked into a group with two friends of the coordinator's."""
    with Lab(target, _world(), folder) as lab:
        draw = _Draw(lab)
        draw.commit()
        draw.reveal()
        if draw.drawn() is None:
            return broken(f"an honest draw did not come about: {lab.why}")
        world, start = lab.world, lab.world.start
        roster = roster_of_group((VICTIM, *COLLUDERS), core_roster(world.plan)).digest()
        context = RoundContext(world.plan.digest(), RUN, 0, 0, roster, start.digest()).digest()
        body = TrainRequest(RUN, 0, 0, start.to_bytes(), {}).encode()
        reply = lab.ask("train", VICTIM, seal("train-request", COORDINATOR, context, body, world.coordinator.sign))
        return held(lab.why) if reply is None else broken("the victim trains for a group that was not drawn")


@dataclass
class _Misled:
    """The victim, shown other words of the other group before the honest verdict."""

    site: Site
    world: World
    said: list[str] = field(default_factory=list)
    signed: bool = False

    def handle(self, name: str, body: bytes) -> bytes | Path:
        if name == "verdict":
            try:
                self.site.handle(name, _with_other_sums(self.world, body))
                self.signed = True
            except FedsecError as e:
                self.said.append(f"{VICTIM} refuses `verdict`: {e}")
        return self.site.handle(name, body)

    def restart(self) -> None:
        self.site.restart()

    def close(self) -> None:
        self.site.close()


def _with_other_sums(world: World, request: bytes) -> bytes:
    message = CombineRequest.decode(body_of(request))
    words = [bytes(len(part)) for part in message.words]
    parts = CombineRequest(message.scores, message.signed, words).parts()
    return seal_parts("verdict-request", COORDINATOR, header_of(request).context, parts, world.coordinator.sign)


def unverified_sum(target: Target, folder: Path) -> Got:
    """The coordinator shows the victim sums of its own making."""
    with Lab(target, _world(), folder) as lab:
        misled = _Misled(lab.sites[VICTIM], lab.world)
        done = lab.honest_round({**lab.sites, VICTIM: misled})
        if misled.signed:
            return broken("the victim signs an adapter from a sum that no member verified")
        if done is None or not misled.said:
            return broken(f"an honest round ends: {lab.why}")
        return held(misled.said[0])


def false_level(target: Target, folder: Path) -> Got:
    """The coordinator says that the victim's group has no loss, and the other one a large one."""
    world = _world()

    def loss(adapter: AdapterState) -> float:
        moved = adapter.flatten() - world.start.flatten()
        return 0.0 if float(np.dot(moved, world.updates[VICTIM])) > _overlap(world) else 4.0

    world = replace(world, loss=loss)
    with Lab(target, world, folder) as lab:
        done = lab.honest_round()
        if done is None:
            return broken(f"an honest round ends: {lab.why}")
        share = share_of(world, done.mean, VICTIM)
        text = f"{VICTIM} is {share:.0%} of a round, the cap is {GROUP_CAP:.0%}"
        return broken(text) if share > GROUP_CAP + 0.02 else held(text)


def _overlap(world: World) -> float:
    """What tells a mean with the victim in it from one without: its own part of it, by half."""
    own = world.updates[VICTIM]
    return float(np.dot(own, own)) / (2 * len(world.updates) / 2)


def _world() -> World:
    return make_world(rounds=1, rule="group-influence", sites=GROUP_SITES)
