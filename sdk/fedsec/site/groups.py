"""A site of a plan that weighs groups by the losses of their decrypted sums.

Before round 0 all sites of the roster draw the groups of the run: `commit`, `reveal`, `draw`. A round is then a masked
round inside this site's own group: the group's roster is in the context, so keys, masks and signatures of one group are
worth nothing in another. Its members verify the group's sum as they would a round's, and sign it (`sum`). In `verdict`
all groups' sums come with those signatures and the coordinator's scores; the weights follow, and the next adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from fedsec.plan.model import Plan
from fedsec.site.end import Reply, claimed_context
from fedsec.site.identity import SiteIdentity, SiteWork
from fedsec.site.masked import MaskedAgent
from fedsec.site.store import SiteStore
from fedsec.site.store_answers import Place
from fedsec.training.adapter import AdapterState
from fedsec.training.group_step import combined, group_rule, stepped
from fedsec.training.public_step import after_sum
from fedsec.wire import verdict_context
from fedsec_secure.codec import Reader, open_packet, seal, sha256
from fedsec_secure.errors import PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, Roster
from fedsec_secure.masking.checks import check_members, open_request
from fedsec_secure.masking.draw import Drawn, draw_context, least_threshold, roster_of_group
from fedsec_secure.masking.group_messages import (
    QUARTERS,
    CombineRequest,
    GroupSum,
    Scores,
    groups_context,
    open_scores,
    verify_group_sum,
)
from fedsec_secure.masking.parameters import Group
from fedsec_secure.masking.site_draw import SiteCommitted, SiteDrawn, SiteOpened
from fedsec_secure.masking.transitions import GROUPED
from fedsec_secure.numeric.lanes import Floats, Words
from fedsec_secure.weighting.groups import STEPS, shares


class GroupAgent(MaskedAgent):
    """One site of a plan with `weighting.rule = "group-influence"`."""

    def __init__(self, identity: SiteIdentity, plan: Plan, store: SiteStore, work: SiteWork) -> None:
        super().__init__(identity, plan, store, work)
        self._table = GROUPED
        self._floor = self._cohort.minimum_cohort
        drawing: dict[str, Callable[[bytes], Reply]] = {
            "commit": self._commit,
            "reveal": self._reveal,
            "draw": self._draw,
        }
        self._handlers = {**drawing, "sum": self._sum, **self._handlers}

    def _place(self, name: str, body: bytes) -> Place | None:
        """A draw belongs to a run, and counts as before its first round."""
        if name == "commit":
            return Place(self._run_of_commit(body), 0, 0)
        if name == "reveal":
            return Place(self._run_of_draw(body), 0, 0)
        if name == "draw":
            return Place(self._store.draws.run_of(lambda opened: opened.bound == claimed_context(body)), 0, 0)
        return super()._place(name, body)

    # ---- the draw

    def _run_of_commit(self, body: bytes) -> str:
        verify = self._roster.verifier(COORDINATOR)
        packet = open_packet(body, kind="commit-request", sender=COORDINATOR, context=None, verify=verify)
        r = Reader(packet, "commit request")
        run = r.text(most=64)
        r.done()
        # Check 99 (replay): the request is for the plan and run that it carries.
        if claimed_context(body) != self._draw_context(run):
            raise PeerViolationError("the commit request is signed for another plan, run or roster")
        return run

    def _draw_context(self, run: str) -> bytes:
        return draw_context(self._plan_digest, run, self._roster.digest())

    def _run_of_draw(self, body: bytes) -> str:
        claimed = claimed_context(body)
        return self._store.runs.which(self._plan_digest, lambda run: self._draw_context(run) == claimed)

    def _commit(self, body: bytes) -> Reply:
        run = self._run_of_commit(body)
        self._admit(Place(run, 0, 0), 0)
        state = self._store.draws.committed(run)
        if state is None:
            state = SiteCommitted.begin(self._id.me, self._draw_context(run), self._id.key.sign)
            self._store.draws.save_committed(run, state)
        return state.packet

    def _reveal(self, body: bytes) -> Reply:
        run = self._run_of_draw(body)
        self._end.require_open(run)
        opened, committed = self._store.draws.opened(run), self._store.draws.committed(run)
        if opened is not None:
            opened.require_same(body, self._cohort)
            return opened.packet
        if committed is None:
            raise PeerViolationError(f"this site has committed to nothing in run {run} yet")
        state = SiteOpened.enter(committed, body, self._cohort, self._id.key.sign)
        self._store.draws.save_opened(run, state)
        return state.packet

    def _draw(self, body: bytes) -> Reply:
        claimed = claimed_context(body)
        run = self._store.draws.run_of(lambda opened: opened.bound == claimed)
        opened, known = self._store.draws.opened(run), self._store.draws.reply(run)
        assert opened is not None  # it is how the run was found
        self._end.require_open(run)
        count = self._plan.weighting.groups
        assert count is not None  # the plan's own validator
        state = SiteDrawn.enter(opened, body, self._cohort, count, self._id.key.sign)
        if known is None:
            self._store.draws.save_groups(run, state.groups, state.packet)
        return state.packet

    def _groups(self, run: str) -> Drawn:
        found = self._store.draws.groups(run)
        # Check 100 (redrawn groups): no update leaves for a group that this site did not draw.
        if found is None:
            raise PeerViolationError(f"the groups of run {run} are not drawn here yet, or the record was lost since")
        return found

    # ---- a round inside the group

    def _group(self, run: str) -> Group:
        return next(self._as_group(run, group) for group in self._groups(run) if self._id.me in group)

    def _round_roster(self, run: str) -> Roster:
        return self._group(run).roster

    def _as_group(self, run: str, members: tuple[str, ...]) -> Group:
        roster = roster_of_group([s for s in self._roster.ids if s in members], self._roster)
        return Group(roster, self._floor, least_threshold(len(members)))

    def _sum(self, body: bytes) -> Reply:
        """Verify the own group's sum, and sign it for the others."""
        place, adapter, request, _ = self._checked_sum("sum", body)
        said = GroupSum(tuple(sorted(request.heads)), sha256(request.words))
        context = self._all_context(place, adapter)
        reply = seal("sum", self._id.me, context, said.encode(), self._id.key.sign)
        self._store.answers.claim(place, "sum", self._table)
        self._store.answers.save(place, "sum", context, body, said.encode(), reply)
        return reply

    def _all_context(self, place: Place, adapter: AdapterState) -> bytes:
        roster = self._roster.digest()
        return groups_context(self._plan_digest, place.run, place.round, roster, adapter.digest())

    # ---- all groups together

    def _verdict(self, body: bytes) -> Reply:
        place, own = self._continue("verdict", body)
        context = claimed_context(body)
        request = CombineRequest.decode(open_request("verdict", body, context, self._cohort))
        adapter = AdapterState.from_bytes(self._store.adapter(place.run, place.round))
        sums = self._sums(place, request, context, own)
        scores = open_scores(request.scores, sums, context, self._roster.verifier(COORDINATOR))
        mean = self._combined(place, adapter, request, sums, scores)
        new = after_sum(self._plan, place.round, adapter, mean)
        signing = verdict_context(self._plan_digest, place.run, place.round, self._roster.digest())
        reply = seal("verdict", self._id.me, signing, new.digest(), self._id.key.sign)
        self._store.answers.claim(place, "verdict", self._table)
        self._store.draws.save_scores(place.run, place.round, request.scores)
        self._store.finish_round(place, new.digest(), context, body, reply)
        return reply

    def _sums(self, place: Place, request: CombineRequest, context: bytes, own: bytes) -> list[GroupSum]:
        """Every group's, each signed by its own members; this site's own as it verified it."""
        groups = self._groups(place.run)
        # Check 101 (forged group sum): of every group that was drawn, each once.
        if len(request.signed) != len(groups):
            raise PeerViolationError(f"expected the sums of {len(groups)} groups, found {len(request.signed)}")
        found = []
        for members, packets, words in zip(groups, request.signed, request.words, strict=True):
            said = verify_group_sum(packets, words, self._as_group(place.run, members), context)
            # Check 102 (forged group sum): what stands for this site's group is what it verified by its tag.
            if self._id.me in members and said.encode() != own:
                raise PeerViolationError("the sum that stands for this site's group is another one than it verified")
            found.append(said)
        check_members({site: b"" for said in found for site in said.survivors}, self._id.me, self._cohort, "the sums")
        return found

    def _combined(
        self, place: Place, adapter: AdapterState, request: CombineRequest, sums: list[GroupSum], scores: Scores
    ) -> Floats:
        step = Fraction(scores.quarters, QUARTERS)
        # Check 103 (lopsided weights): the server takes no other step than those that the protocol lists.
        if step not in STEPS:
            raise PeerViolationError(f"expected a step of {', '.join(map(str, STEPS))}, found {step}")
        counts = [len(said.survivors) for said in sums]
        weights = group_rule(self._plan).weigh(counts, scores.levels)
        words = (_words(part) for part in request.words)
        mean = combined(zip(words, counts, strict=True), self._parameters(adapter, place), shares(counts, weights))
        return stepped(mean, step)


def _words(part: object) -> Words:
    view = memoryview(part)  # type: ignore[arg-type]
    return np.frombuffer(view, dtype="<u8") if len(view) % 8 == 0 else np.empty(0, "<u8")
