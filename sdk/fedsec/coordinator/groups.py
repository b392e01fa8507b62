"""A round in groups: masked sums of all groups side by side, then one verdict over all of them.

Every group is a masked instance of its own, with its own roster, threshold and attempt. Their exchanges go out
together, so that a round takes as many as without groups, and one more: `sum`, in which members sign their group's sum
for the other groups. An attempt that one group cannot finish before `confirm` is given up by all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TypeVar

from fedsec.coordinator.attempt import Attempt, Ended, RoundResult, Steps, Summed, Uploaded
from fedsec.coordinator.draw import ask
from fedsec.coordinator.driver import Driver
from fedsec.coordinator.exchange import Exchange, Outcome
from fedsec.coordinator.rounds import tried
from fedsec.training.adapter import AdapterState
from fedsec.training.group_step import Loss, combined, group_rule, losses_of_groups, losses_of_steps, stepped
from fedsec.training.public_step import after_sum
from fedsec.wire import VerdictRequest
from fedsec_secure.codec import open_packet, seal, seal_parts, sha256
from fedsec_secure.errors import LocalMisuseError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, Roster, SiteId
from fedsec_secure.masking.coordinator_collect import Refused, require, sift
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.draw import least_threshold, roster_of_group
from fedsec_secure.masking.group_messages import QUARTERS, CombineRequest, GroupSum, Scores, groups_context
from fedsec_secure.masking.parameters import Group
from fedsec_secure.numeric.score_levels import level_of
from fedsec_secure.record.entries import AggregateEntry, ScoresEntry
from fedsec_secure.weighting.groups import best_step, shares, site_weights

T = TypeVar("T")


@dataclass(frozen=True)
class GroupDriver(Driver):
    """What the coordinator knows of one group: the run with this part of its roster."""

    members: tuple[SiteId, ...] = ()

    @classmethod
    def of(cls, driver: Driver, members: tuple[SiteId, ...]) -> GroupDriver:
        """The same run."""
        return cls(**{f.name: getattr(driver, f.name) for f in fields(Driver)}, members=members)

    @property
    def roster(self) -> Roster:
        """The group's."""
        return roster_of_group(self.members, super().roster)

    def group(self) -> Group:
        """The group with the smallest threshold that it may have."""
        return Group(self.roster, self.plan.secure.minimum_cohort, least_threshold(len(self.members)))


def group_round(
    driver: Driver,
    draw: Draw,
    index: int,
    adapter: AdapterState,
    verdicts: Mapping[SiteId, bytes],
    history: Sequence[frozenset[SiteId]],
    loss: Loss,
) -> Steps:
    """One round from ``adapter``. ``history``: survivors of each round; ``loss``: on the plan's validation set."""
    drivers = [GroupDriver.of(driver, members) for members in draw.groups]
    past = [[before & set(members) for before in history] for members in draw.groups]

    def begin(attempt: int) -> Generator[Exchange, Outcome, tuple[int, list[Attempt], list[Uploaded]]]:
        yield from ask(driver, "draw", index, attempt, driver.roster.ids, draw.draw_request(), draw.accept_draw)
        each = [Attempt(d, index, attempt, adapter, verdicts, h) for d, h in zip(drivers, past, strict=True)]
        uploaded = yield from together([one.uploaded() for one in each])
        # Each group has its floor; where the plan's is above them all together, sites would refuse what was opened.
        require(sum(len(ready.heads) for ready in uploaded), driver.group(), "U3 of all groups")
        return attempt, each, uploaded

    attempt, each, uploaded = yield from tried(driver, index, begin)
    summed = yield from together([one.summed(ready) for one, ready in zip(each, uploaded, strict=True)])
    whole = Attempt(driver, index, attempt, adapter, verdicts, history)
    return (yield from _Combining(whole, each, summed).finish(loss))


@dataclass(frozen=True)
class _Combining:
    """The sums of all groups are open."""

    whole: Attempt
    each: Sequence[Attempt]
    summed: Sequence[Summed]

    @property
    def _context(self) -> bytes:
        driver, adapter = self.whole.driver, self.whole.adapter.digest()
        return groups_context(driver.plan.digest(), driver.run, self.whole.index, driver.roster.digest(), adapter)

    def finish(self, loss: Loss) -> Steps:
        """`sum`, the scores, `verdict`."""
        said = [GroupSum(tuple(sorted(s.heads)), sha256(s.words.view("u1").data)) for s in self.summed]
        signed = yield from self._signed(said)
        driver, index, state = self.whole.driver, self.whole.index, self.whole.known
        plan, parameters = driver.plan, driver.parameters(state.shapes, index)
        sums = [(s.words, len(s.heads)) for s in self.summed]
        losses = losses_of_groups(plan, index, state, sums, parameters, loss)
        levels, counts = tuple(map(level_of, losses)), [count for _, count in sums]
        weights = group_rule(plan).weigh(counts, levels)
        mean = combined(sums, parameters, shares(counts, weights))
        step = best_step(losses_of_steps(plan, index, state, mean, loss))
        new = after_sum(plan, index, state, stepped(mean, step))
        scores = self._scores(said, levels, step)
        parts = CombineRequest(scores, signed, [s.words.view("u1").data for s in self.summed]).parts()
        request = seal_parts("verdict-request", COORDINATOR, self._context, parts, driver.sign)
        entry = AggregateEntry(
            run=driver.run,
            round=index,
            sum_sha256=sha256(*(sha256(one.encode()) for one in said)).hex(),
            adapter_before_sha256=state.digest().hex(),
            adapter_after_sha256=new.digest().hex(),
        )
        by_site = site_weights([one.survivors for one in said], weights)
        witnesses = tuple(sorted(site for packets in signed for site in packets))
        ended = Ended(new, by_site, witnesses, request, entry)
        driver.report(
            {
                "event": "groups",
                "round": index,
                "groups": [list(one.survivors) for one in said],
                "levels": list(levels),
                "weights": list(weights),
                "step": float(step),
            }
        )
        verdicts = yield from self.whole.judged(ended)
        driver.record(ScoresEntry(run=driver.run, round=index, scores_sha256=sha256(scores).hex()))
        driver.record(entry)
        return RoundResult(index, new, verdicts, by_site)

    def _scores(self, said: Sequence[GroupSum], levels: tuple[int, ...], step: Fraction) -> bytes:
        body = Scores(tuple(sha256(one.encode()) for one in said), levels, int(step * QUARTERS)).encode()
        return seal("scores", COORDINATOR, self._context, body, self.whole.driver.sign)

    def _signed(self, said: Sequence[GroupSum]) -> Generator[Exchange, Outcome, list[dict[SiteId, bytes]]]:
        """`sum`: every group's members verify its sum by the tag, and sign it for the others."""
        requests: dict[SiteId, bytes] = {}
        for summed in self.summed:
            words = summed.words.view("u1").data
            parts = VerdictRequest(summed.heads, summed.total.tag, words).parts()
            request = seal_parts("sum-request", COORDINATOR, summed.context, parts, self.whole.driver.sign)
            requests |= dict.fromkeys(summed.witnesses, request)
        outcome = yield from self.whole.ask("sum", requests, lambda outcome: self._members(said, outcome))
        signed, refused = self._members(said, outcome)
        self.whole.note("refused", "sum", refused)
        return signed

    def _members(self, said: Sequence[GroupSum], outcome: Outcome) -> tuple[list[dict[SiteId, bytes]], Refused]:
        """By group, who signed its sum; AbortError where those are too few."""
        due = {site: one.encode() for one in said for site in one.survivors}

        def accept(site: SiteId, packet: bytes) -> bytes:
            verify = self.whole.driver.roster.verifier(site)
            body = open_packet(packet, kind="sum", sender=site, context=self._context, verify=verify)
            # Check 104 (forged verdict): members sign the sum that the coordinator has.
            if bytes(body) != due[site]:
                raise PeerViolationError(f"{site} signed another sum of its group")
            return packet

        packets, refused = sift(outcome.small(), accept)
        signed = [{s: packets[s] for s in one.survivors if s in packets} for one in said]
        for one, part in zip(self.each, signed, strict=True):
            require(len(part), one.driver.group(), "the set of signatures on a group's sum")
        return signed, refused


def together(generators: Sequence[Generator[Exchange, Outcome, T]]) -> Generator[Exchange, Outcome, list[T]]:
    """Several alike generators over different sites, step by step: one exchange for all of them at a time."""
    asked = [next(generator) for generator in generators]
    while True:
        outcome = yield _merged(asked)
        following: list[Exchange] = []
        done: list[T] = []
        for generator, own in zip(generators, asked, strict=True):
            try:
                following.append(generator.send(_part(outcome, own.requests)))
            except StopIteration as stop:
                done.append(stop.value)
        if len(done) == len(generators):
            return done
        if done:
            raise LocalMisuseError("groups that go different ways cannot be asked together")
        asked = following


def _merged(asked: Sequence[Exchange]) -> Exchange:
    first = asked[0]
    if len({(e.name, e.round, e.attempt) for e in asked}) > 1:
        raise LocalMisuseError("groups that go different ways cannot be asked together")
    requests = {site: request for e in asked for site, request in e.requests.items()}

    def settle(outcome: Outcome) -> None:
        for each in asked:
            if each.settle is not None:
                each.settle(_part(outcome, each.requests))

    last_chance = any(e.settle is not None for e in asked)
    return Exchange(first.name, first.round, first.attempt, requests, first.deadline, settle if last_chance else None)


def _part(outcome: Outcome, sites: Mapping[SiteId, object]) -> Outcome:
    replies = {site: reply for site, reply in outcome.replies.items() if site in sites}
    return Outcome(replies, {site: why for site, why in outcome.lost.items() if site in sites})
