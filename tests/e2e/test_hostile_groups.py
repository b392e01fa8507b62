"""A coordinator that draws again, deals groups of its own, or shows sums and scores that nobody verified: refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from fedsec.site.groups import GroupAgent
from fedsec.wire import core_roster
from fedsec_secure.codec import Writer, head_length, open_packet, seal, seal_parts
from fedsec_secure.errors import FedsecError, PeerViolationError
from fedsec_secure.identity.roster import COORDINATOR, SiteId
from fedsec_secure.masking.coordinator_draw import Draw
from fedsec_secure.masking.draw import draw_context
from fedsec_secure.masking.group_messages import CombineRequest, GroupSum, Scores
from fedsec_secure.masking.messages import encode_packets
from fedsec_secure.record.entries import DrawEntry, ScoresEntry
from tests.e2e.federation import RUN, Federation, Keys, loss_of
from tests.e2e.test_group_runs import NAMES, SITES, group_plan
from tests.e2e.test_hostile_requests import train_request

A = SiteId("site-a")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@dataclass
class Drawing:
    """A coordinator's hands over the sites of an open federation."""

    federation: Federation
    run: str = RUN
    commitments: dict[SiteId, bytes] = field(default_factory=dict)
    reveals: dict[SiteId, bytes] = field(default_factory=dict)

    @property
    def draw(self) -> Draw:
        plan, sign = self.federation.plan, self.federation.keys.coordinator.sign
        roster = core_roster(plan)
        context = draw_context(plan.digest(), self.run, roster.digest())
        return Draw(roster, context, plan.weighting.groups, self.run, sign, self.commitments, self.reveals)

    def ask(self, name: str, site: str, request: bytes) -> bytes:
        return self.federation.agents[SiteId(site)].handle(name, request)

    def commit(self) -> None:
        self.commitments = {SiteId(s): self.ask("commit", s, self.draw.commit_request()) for s in NAMES}

    def reveal(self) -> None:
        self.reveals = {SiteId(s): self.ask("reveal", s, self.draw.reveal_request()) for s in NAMES}


def other_commitment(federation: Federation, site: str) -> bytes:
    """By a colluder that signs a second one."""
    context = Drawing(federation).draw.context
    return seal("commit", site, context, bytes(32), federation.keys.sites[site].sign)


def test_a_site_commits_once_a_run_also_after_a_crash(tmp_path, keys):
    plan = group_plan(keys)
    with Federation(tmp_path, keys, plan) as federation:
        drawing = Drawing(federation)
        first = drawing.ask("commit", A, drawing.draw.commit_request())
        assert drawing.ask("commit", A, drawing.draw.commit_request()) == first
    with Federation(tmp_path, keys, plan) as federation:
        drawing.federation = federation
        assert drawing.ask("commit", A, drawing.draw.commit_request()) == first


def test_a_nonce_is_opened_for_one_set_also_after_a_crash(tmp_path, keys):
    plan = group_plan(keys)
    with Federation(tmp_path, keys, plan) as federation:
        drawing = Drawing(federation)
        drawing.commit()
        opened = drawing.ask("reveal", A, drawing.draw.reveal_request())
        honest = dict(drawing.commitments)
        drawing.commitments |= {SiteId("site-b"): other_commitment(federation, "site-b")}
        with pytest.raises(PeerViolationError, match="groups are drawn once a run"):
            drawing.ask("reveal", A, drawing.draw.reveal_request())
    with Federation(tmp_path, keys, plan) as federation:
        drawing.federation = federation
        with pytest.raises(PeerViolationError, match="groups are drawn once a run"):
            drawing.ask("reveal", A, drawing.draw.reveal_request())
        drawing.commitments = honest
        assert drawing.ask("reveal", A, drawing.draw.reveal_request()) == opened


def test_groups_are_drawn_from_everybodys_nonces(tmp_path, keys):
    with Federation(tmp_path, keys, group_plan(keys)) as federation:
        drawing = Drawing(federation)
        drawing.commit()
        drawing.reveal()
        whole = dict(drawing.reveals)
        draw = drawing.draw
        drawing.reveals = {s: p for s, p in whole.items() if s != "site-h"}
        with pytest.raises(PeerViolationError, match="found 7; missing: site-h"):
            drawing.ask("draw", A, drawing.draw.draw_request())
        with pytest.raises(PeerViolationError, match="are not drawn here yet"):
            drawing.ask("train", A, train_request(federation, federation.initial(), 0))
        assert federation.works[A].trained == []
        drawing.reveals = whole
        assert drawing.ask("draw", A, draw.draw_request()) == drawing.ask("draw", A, draw.draw_request())


def test_an_update_leaves_for_no_other_group_than_the_one_that_was_drawn(tmp_path, keys):
    """A sham group in the context of `train`: the whole roster, or any other set."""
    with Federation(tmp_path, keys, group_plan(keys)) as federation:
        drawing = Drawing(federation)
        drawing.commit()
        drawing.reveal()
        drawing.ask("draw", A, drawing.draw.draw_request())
        with pytest.raises(PeerViolationError, match="is signed for another plan, run, round, roster or adapter"):
            drawing.ask("train", A, train_request(federation, federation.initial(), 0))
        assert federation.works[A].trained == []


def test_every_run_id_that_draws_counts_as_a_run(tmp_path, keys):
    with Federation(tmp_path, keys, group_plan(keys), max_runs=2) as federation:
        for run in ("run-1", "run-2"):
            Drawing(federation, run).commit()
        with pytest.raises(PeerViolationError, match="max_runs = 2 for one plan, and 2 began"):
            Drawing(federation, "run-3").commit()


def test_a_commit_request_for_another_run_than_it_names(tmp_path, keys):
    with Federation(tmp_path, keys, group_plan(keys)) as federation:
        draw = Drawing(federation).draw
        body = Writer().text("run-2").done()
        request = seal("commit-request", COORDINATOR, draw.context, body, federation.keys.coordinator.sign)
        with pytest.raises(PeerViolationError, match="the commit request is signed for another plan, run or roster"):
            federation.agents[A].handle("commit", request)


def test_nothing_is_opened_before_it_was_committed_to(tmp_path, keys):
    with Federation(tmp_path, keys, group_plan(keys)) as federation:
        draw = Drawing(federation).draw
        request = seal("reveal-request", COORDINATOR, draw.context, encode_packets({}), draw.sign)
        with pytest.raises(PeerViolationError):
            federation.agents[A].handle("reveal", request)
        with pytest.raises(PeerViolationError, match="no draw that this site opened"):
            federation.agents[A].handle("draw", seal("draw-request", COORDINATOR, bytes(32), b"", draw.sign))


# ---- the verdict over all groups


@dataclass
class Recast:
    """One site's honest agent; before the honest `verdict` it is asked every forged one."""

    agent: GroupAgent
    forged: dict[str, object]
    said: dict[str, str] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)

    def handle(self, name: str, body: bytes):
        if name == "verdict":
            self.kept.append(body)
            for title, forge in self.forged.items():
                try:
                    self.agent.handle(name, forge(body))
                except FedsecError as e:
                    self.said[title] = f"{type(e).__name__}: {e}"
        return self.agent.handle(name, body)


@dataclass
class Forger:
    """What a coordinator can make out of an honest `verdict` request with its own key and a colluder's."""

    federation: Federation

    def take(self, request: bytes) -> tuple[CombineRequest, bytes, Scores]:
        public = self.federation.keys.coordinator.public.verify
        body = open_packet(request, kind="verdict-request", sender=COORDINATOR, context=None, verify=public)
        message, context = CombineRequest.decode(body), request_context(request)
        inner = open_packet(message.scores, kind="scores", sender=COORDINATOR, context=context, verify=public)
        return message, context, Scores.decode(inner)

    def make(self, message: CombineRequest, context: bytes, scores: Scores | None = None) -> bytes:
        sign = self.federation.keys.coordinator.sign
        packet = message.scores if scores is None else seal("scores", COORDINATOR, context, scores.encode(), sign)
        return seal_parts("verdict-request", COORDINATOR, context, replace(message, scores=packet).parts(), sign)

    def scored(self, **changes):
        def forge(request: bytes) -> bytes:
            message, context, scores = self.take(request)
            return self.make(message, context, replace(scores, **changes))

        return forge

    def edited(self, group: int, edit):
        def forge(request: bytes) -> bytes:
            message, context, _ = self.take(request)
            signed, words = list(message.signed), list(message.words)
            signed[group], words[group] = edit(signed[group], bytes(words[group]), context)
            return self.make(CombineRequest(message.scores, signed, words), context)

        return forge

    def claimed(self, packets, words, context, signers, survivors=None, digest=None) -> dict[SiteId, bytes]:
        """Colluders of a group sign what the coordinator likes."""
        honest = GroupSum.decode(next(iter(packets.values()))[head_length(next(iter(packets.values()))) :])
        said = GroupSum(survivors or honest.survivors, digest or honest.words)
        sites = self.federation.keys.sites
        return {s: seal("sum", s, context, said.encode(), sites[s].sign) for s in signers}


def request_context(request: bytes) -> bytes:
    from fedsec.site.end import claimed_context

    return claimed_context(request)


def test_a_verdict_that_the_groups_did_not_sign_is_refused(tmp_path, keys):
    """Each forgery is asked of site-a before the honest request, which it then still answers."""
    plan, found = group_plan(keys), {}

    def wrap(site, agent):
        return found.setdefault("liar", Recast(agent, forgeries())) if site == "site-a" else agent

    def forgeries():
        f = Forger(federation)
        groups = lambda: federation.stores["site-a"].draws.groups(RUN)  # noqa: E731
        own = lambda: next(i for i, g in enumerate(groups()) if "site-a" in g)  # noqa: E731

        def other(edit):
            def forge(request):
                return f.edited(1 - own(), edit)(request)  # the groups are known by then

            return forge

        def changed(packets, words, context):
            return packets, bytes([words[0] ^ 1]) + words[1:]

        def few(packets, words, context):
            return dict(list(packets.items())[:2]), words

        def torn(packets, words, context):
            one = sorted(packets)[0]
            return packets | f.claimed(packets, words, context, [one], digest=bytes(32)), words

        def narrow(packets, words, context):
            three = tuple(sorted(packets)[:3])
            return f.claimed(packets, words, context, three, survivors=three[:2]), words

        def outside(packets, words, context):
            return packets | f.claimed(packets, words, context, ["site-a"]), words

        def unsigned(packets, words, context):
            forged = {s: seal("sum", s, context, b"x", federation.keys.coordinator.sign) for s in packets}
            return forged, words

        def mine(request):
            """All of this site's own group but itself collude."""

            def edit(packets, words, context):
                peers = [s for s in packets if s != "site-a"]
                zeros = bytes(len(words))
                from fedsec_secure.codec import sha256

                return f.claimed(packets, zeros, context, peers, digest=sha256(zeros)), zeros

            return f.edited(own(), edit)(request)

        def fewer_groups(request):
            message, context, _ = f.take(request)
            return f.make(CombineRequest(message.scores, message.signed[:1], message.words[:1]), context)

        return {
            "words": other(changed),
            "few": other(few),
            "torn": other(torn),
            "narrow": other(narrow),
            "outside": other(outside),
            "unsigned": other(unsigned),
            "mine": mine,
            "groups": fewer_groups,
            "step": f.scored(quarters=40),
            "sums": f.scored(sums=(bytes(32), bytes(32))),
        }

    federation = Federation(tmp_path, keys, plan, loss=loss_of, wrap=wrap)
    with federation:
        federation.run()
        assert [e["round"] for e in federation.events if e["event"] == "round"] == [0]
        said = found["liar"].said
    expected = {
        "words": "another one than its members verified",
        "few": "2 sites signed the sum of their group; expected 3",
        "torn": "members of one group signed different sums",
        "narrow": "a group's sum is over 2 sites; expected at least 3",
        "outside": "found 'site-a'",
        "unsigned": "signature does not hold",
        "mine": "another one than it verified",
        "groups": "expected the sums of 2 groups, found 1",
        "step": "expected a step of 1/2, 3/4, 1, 5/4, 3/2, found 10",
        "sums": "about other sums than those that came with them",
    }
    assert said.keys() == expected.keys()
    for title, why in expected.items():
        assert why in said[title], (title, said[title])


def test_what_the_coordinator_says_of_a_level_is_signed_and_kept(tmp_path, keys):
    """A site that is told otherwise than the others goes along, comes to another adapter, and keeps the evidence."""
    plan, made = group_plan(keys, weighting={"cap": 0.2}), {}

    class Flattered:
        def __init__(self, agent):
            self.agent = agent

        def handle(self, name, body):
            if name == "verdict":
                body = Forger(federation).scored(levels=(0, 80))(body)
                made["scores"] = Forger(federation).take(body)[2]
            return self.agent.handle(name, body)

    federation = Federation(
        tmp_path, keys, plan, loss=loss_of, wrap=lambda s, agent: Flattered(agent) if s == "site-a" else agent
    )
    with federation:
        federation.run()
        kept = {site: store.draws.all_scores(RUN)[0] for site, store in federation.stores.items()}
    public = keys.coordinator.public.verify
    held = open_packet(kept["site-a"], kind="scores", sender=COORDINATOR, context=None, verify=public)
    assert Scores.decode(held) == made["scores"]
    assert len(set(kept.values())) == 2, "two signed statements about the same sums: that is the evidence"
    refused = [e["sites"] for e in federation.events if e["event"] == "refused" and e["exchange"] == "verdict"]
    assert refused == [{"site-a": "site-a computed another adapter from the same sum"}]


@pytest.mark.parametrize("kind", [DrawEntry, ScoresEntry])
def test_a_log_with_other_groups_or_scores_is_not_cosigned(tmp_path, keys, kind):
    plan = group_plan(keys)
    with Federation(tmp_path, keys, plan, loss=loss_of) as federation:
        runner = federation.runner()
        record = runner.log.record

        def edited(entry):
            if isinstance(entry, DrawEntry) and kind is DrawEntry:
                entry = entry.model_copy(update={"groups": tuple(reversed(entry.groups))})
            if isinstance(entry, ScoresEntry) and kind is ScoresEntry:
                entry = entry.model_copy(update={"scores_sha256": "0" * 64})
            record(entry)

        runner.driver = replace(runner.driver, record=edited)
        with pytest.raises(FedsecError, match="the set of cosignatures of the log has 0 sites"):
            runner.rounds(federation.initial())
        (lost,) = [e["sites"] for e in federation.events if e["event"] == "lost" and e["exchange"] == "witness"]
    why = "other groups than this site drew" if kind is DrawEntry else "other scores of round 0"
    assert all(why in reason for reason in lost.values())


def test_a_site_that_signs_another_sum_of_its_group_is_set_aside_and_named(tmp_path, keys):
    class Liar:
        def __init__(self, agent):
            self.agent = agent

        def handle(self, name, body):
            reply = self.agent.handle(name, body)
            if name != "sum":
                return reply
            said = GroupSum.decode(reply[head_length(reply) :])
            other = GroupSum(said.survivors, bytes(32)).encode()
            return seal("sum", "site-a", request_context(reply), other, keys.sites["site-a"].sign)

    plan = group_plan(keys)
    federation = Federation(
        tmp_path, keys, plan, loss=loss_of, wrap=lambda s, agent: Liar(agent) if s == "site-a" else agent
    )
    with federation:
        federation.run()
        (refused,) = [e["sites"] for e in federation.events if e["event"] == "refused"]
        assert refused == {"site-a": "site-a signed another sum of its group"}
        assert len([e for e in federation.events if e["event"] == "round"]) == 1
