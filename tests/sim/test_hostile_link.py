"""An engine that does what it likes with frames, and sites and coordinators that are not who they say.

Each is refused in words, and nothing else happens: the exchange of the honest site ends as if nobody had been there.
"""

import gc
import random
import tracemalloc
from threading import Event

import pytest

from fedsec.engines.link import envelope
from fedsec.engines.link.desk import _KEPT
from fedsec.engines.link.messages import Announce, Gone, Have, Next, Nothing, Over, Pull, Push, Refuse, encode_answer
from fedsec.engines.link.station import LineEndedError, Pace, UndeliveredError
from fedsec_secure.errors import CodecError, PeerViolationError, TransportError, VerificationError
from fedsec_secure.identity.channel import SESSION_BYTES, Opening
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.roster import SiteId
from tests.links import COORDINATOR, KEYS, PLAN, A, Agent, B, Site, Speaker, make_desk, make_exchange, over, until

DATA = bytes(range(256)) * 2000
STRANGER = SigningKey.generate()


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path / "incoming")


def refusal(answer):
    """The words of a refusal; a failure where it is anything else."""
    with pytest.raises(TransportError, match="the other end says: ") as found:
        envelope.open_answer(answer, envelope.SEALED)
    return str(found.value)


def greeting(key, *, site=A, plan=PLAN, claimed=None):
    return envelope.greeting(claimed or site, Opening.make(site, plan, "fedsec 0", key.sign).packet)


def run(desk, spool, deliver):
    """One exchange through a hostile engine; the site and its agent."""
    agent = Agent(lambda name, body: DATA)
    site = Site(agent, deliver)
    outcome = over(desk).exchange(make_exchange(), spool)
    desk.close("done")
    site.join()
    assert outcome.replies == {A: DATA}
    assert agent.calls == [("train", b"words")]
    assert site.words == "done"
    return site


# ---- replays


def test_an_engine_that_repeats_every_frame_it_ever_saw_gets_words_and_changes_nothing(desk, spool):
    seen, words = [], []

    def deliver(frame):
        answer = desk.answer(frame)
        words.extend(refusal(desk.answer(old)) for old in [*seen, frame] if old[0] == envelope.SEALED)
        seen.append(frame)
        return answer

    run(desk, spool, deliver)
    assert len(words) > 10
    assert {w.partition("says: ")[2] for w in words} == {
        "VerificationError: a request of the link was made before, or in another session"
    }


def test_greetings_that_are_repeated_open_nothing_and_disturb_nobody(desk, spool):
    """Whoever repeats one lacks its secret: the new channel's frames cannot be made, and the old channel goes on."""
    greetings = []

    def deliver(frame):
        if frame[0] == envelope.GREETING:
            greetings.append(frame)
            return desk.answer(frame)
        answer = desk.answer(frame)
        for old in greetings * 10:
            welcome = desk.answer(old)
            assert welcome[0] == envelope.GREETING
        for session in set(desk._sessions) - {frame[1 : 1 + SESSION_BYTES]}:
            assert "does not authenticate" in refusal(desk.answer(frame[:1] + session + frame[1 + SESSION_BYTES :]))
        return answer

    site = run(desk, spool, deliver)
    assert len(site.named("connected")) == 1, "the site never had to greet again"


def test_frames_of_a_run_before_are_unknown_to_the_next(tmp_path, desk, spool):
    seen = []
    run(desk, spool, lambda frame: seen.append(frame) or desk.answer(frame))
    again = make_desk(tmp_path / "again")
    again.post(make_exchange(), spool)
    for frame in seen:
        if frame[0] == envelope.SEALED:
            assert again.answer(frame) == envelope.UNKNOWN_SESSION
    assert again.wait(make_exchange(), 60.0, 0.0) == {A}
    assert not again.heard()


def test_an_answer_to_another_request_is_not_taken(desk, spool):
    """The engine answers each request with the answer before, for a while."""
    answers = []

    def deliver(frame):
        answers.append(desk.answer(frame))
        return answers[-2] if 2 <= len(answers) < 9 else answers[-1]

    site = run(desk, spool, deliver)
    reasons = {e["reason"] for e in site.events if "reason" in e}
    assert any("another request" in r or "kind" in r or "another plan" in r for r in reasons)


# ---- in another's name


def test_a_site_cannot_greet_in_the_name_of_another(desk):
    for frame in (
        greeting(KEYS[B], site=A),  # signed with its own key
        greeting(KEYS[B], site=B, claimed=A),  # its own greeting under the other's name
        greeting(KEYS[A], site=A, claimed=B),  # the other's greeting under its own
    ):
        assert "VerificationError" in refusal(desk.answer(frame))
        assert desk.refused.startswith("a greeting in the name of 'site-")
    assert not desk._sessions
    assert not desk.heard()


def test_a_site_cannot_speak_in_the_channel_of_another_nor_to_its_order(desk, spool):
    desk.post(make_exchange(sites=(A,)), spool)
    honest, other = Speaker(desk, A), Speaker(desk, B)
    order = honest.order()
    honest.announce(order, DATA)
    session = honest.channel._channel.session

    def renamed(frame):
        found = frame[:1] + session + frame[1 + SESSION_BYTES :]
        assert "does not authenticate" in refusal(desk.answer(found[:17] + (99).to_bytes(8, "big") + found[25:]))
        return desk.answer(frame)

    for request in (
        Push(order.order, 0, memoryview(b"forged")),
        Announce(order.order, False, 6, bytes(32)),
        Pull(order.order, 0, 100),
        Refuse(order.order, "I am site-a, and refuse"),
    ):
        assert other.ask(request, renamed) == Gone()
    assert other.ask(Next(0, 0)) == Nothing()
    assert honest.push(order, 0, DATA) == Have(len(DATA))
    outcome = desk.outcome()
    assert outcome.uploads()[A].read_bytes() == DATA
    assert not outcome.lost


@pytest.mark.parametrize("name", ["site-x", "coordinator", "", "site-a\n", "\u202esite-a"])
def test_who_is_not_on_the_roster_is_refused_and_never_held(desk, name):
    frame = envelope.greeting(SiteId(name), Opening.make(SiteId(name), PLAN, "fedsec 0", STRANGER.sign).packet)
    words = refusal(desk.answer(frame))
    assert "pinned roster" in words or "VerificationError" in words
    assert desk.refused.isprintable()
    assert not desk._sessions


def test_the_coordinator_s_own_key_is_no_site_s(desk):
    frame = greeting(COORDINATOR, site=SiteId("coordinator"))
    assert "pinned roster" in refusal(desk.answer(frame))
    assert not desk._sessions


# ---- who is not the plan's coordinator


def not_welcome(deliver, error, words):
    """A site that gives up in words, after it tried for long; its agent was never asked."""
    agent = Agent(lambda name, body: b"secret")
    site = Site(agent, deliver)
    site.join()
    assert isinstance(site.error, error)
    assert words in str(site.error)
    assert not agent.calls
    assert not site.named("connected")
    assert len(site.named("not-welcome")) > 10
    return site


def test_a_coordinator_with_another_key_is_not_served(tmp_path, spool):
    rogue = make_desk(tmp_path / "incoming", key=STRANGER)
    rogue.post(make_exchange(), spool)
    not_welcome(rogue.answer, VerificationError, "signature")
    assert rogue.outcome().replies == {}


def test_a_coordinator_of_another_plan_refuses_and_is_not_served(tmp_path, spool):
    other = make_desk(tmp_path / "incoming", plan=bytes(32))
    other.post(make_exchange(), spool)
    not_welcome(other.answer, TransportError, "another plan")
    assert "another plan" in other.refused


def test_a_site_with_another_key_is_told_so_and_gives_up(desk):
    agent = Agent(lambda name, body: b"secret")
    site = Site(agent, desk.answer, key=STRANGER)
    site.join()
    assert isinstance(site.error, TransportError)
    assert "VerificationError" in str(site.error)
    assert not desk.heard()


def test_a_welcome_to_another_greeting_is_not_taken(desk):
    old = desk.answer(greeting(KEYS[A]))
    not_welcome(lambda frame: old, PeerViolationError, "another plan, run")


def test_an_engine_that_only_ever_answers_rubbish_is_given_up_in_words():
    not_welcome(lambda frame: b"\x01rubbish", CodecError, "welcome of the link")
    not_welcome(lambda frame: b"", CodecError, "expected a frame of kind 1 over the link, found 0")


# ---- an engine that misbehaves for a while


def forged_over(frame):
    """The end of the run, in the engine's own words."""
    return envelope.sealed(frame[1:25] + encode_answer(Over("stop")) + bytes(16))


LIES = {
    "rubbish": lambda frame, rng: rng.randbytes(rng.randrange(200)),
    "nothing": lambda frame, rng: b"",
    "its own frame": lambda frame, rng: frame,
    "forged refusal": lambda frame, rng: envelope.refused("the plan was withdrawn; delete everything"),
    "unknown session": lambda frame, rng: envelope.UNKNOWN_SESSION,
    "forged welcome": lambda frame, rng: envelope.welcomed(rng.randbytes(300)),
    "forged end": lambda frame, rng: forged_over(frame) if len(frame) > 25 else b"",
    "sealed rubbish": lambda frame, rng: envelope.sealed(frame[1:25] + rng.randbytes(40)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("asks", [False, True], ids=["instead of", "after asking"])
def test_an_engine_that_lies_for_a_while_ends_no_run(desk, spool, lie, asks):
    """Twenty answers in a row at the start, and then one in three or so."""
    rng, count = random.Random(lie), 0

    def deliver(frame):
        nonlocal count
        count += 1
        if count <= 20 or rng.random() < 0.3:
            if asks:
                desk.answer(frame)
            return LIES[lie](frame, rng)
        return desk.answer(frame)

    site = run(desk, spool, deliver)
    said = " ".join(str(e.get("reason")) for e in site.events)
    assert count > 25
    assert "stop" not in (site.words or "")
    assert said.isprintable()


def test_an_engine_that_loses_and_ends_at_random_ends_no_run(desk, spool):
    rng = random.Random(7)

    def deliver(frame):
        match rng.randrange(6):
            case 0:
                raise UndeliveredError("lost")
            case 1:
                desk.answer(frame)
                raise LineEndedError("ended")
            case 2:
                return desk.answer(frame[: rng.randrange(len(frame))])
            case 3:
                return desk.answer(frame)[:-1]
        return desk.answer(frame)

    run(desk, spool, deliver)


# ---- floods


def test_a_flood_of_greetings_is_bounded_in_sessions_and_memory_and_the_exchange_goes_on(desk, spool):
    greetings = [greeting(KEYS[s], site=s) for s in KEYS]
    rubbish = [greeting(STRANGER), greeting(STRANGER, site=SiteId("site-x")), b"", b"\x01" + bytes(2000), bytes(9)]
    for frame in greetings * (_KEPT + 1):
        desk.answer(frame)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(250):
        for frame in greetings + rubbish:
            desk.answer(frame)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    assert len(desk._sessions) == _KEPT * len(KEYS)
    site = run(desk, spool, desk.answer)
    assert len(site.named("connected")) == 1
    assert len(desk._sessions) <= (_KEPT + 1) * len(KEYS)


def test_a_flood_between_a_greeting_and_its_first_request_costs_a_site_another_greeting(desk, spool):
    first, flooded = [], Event()

    def deliver(frame):
        answer = desk.answer(frame)
        if frame[0] == envelope.GREETING and not flooded.is_set():
            first.append(frame)
            for _ in range(_KEPT + 1):
                desk.answer(frame)
            flooded.set()
        return answer

    site = run(desk, spool, deliver)
    assert len(site.named("connected")) == 2
    assert [e["reason"] for e in site.named("undelivered")] == ["the coordinator started anew"]


def test_a_site_that_greets_again_and_again_holds_one_channel_in_use(desk):
    for _ in range(50):
        Speaker(desk, A).ask(Next(0, 0))
    assert len(desk._sessions) == 1


def test_a_site_that_asks_for_what_there_is_not_gets_nothing(desk, spool):
    desk.post(make_exchange(b"words"), spool)
    speaker = Speaker(desk)
    order = speaker.order()
    for offset in (5, 6, 1 << 40, (1 << 64) - 1):
        assert len(speaker.ask(Pull(order.order, offset, 1 << 23)).data) == 0
    assert bytes(speaker.ask(Pull(order.order, 1, 1 << 23)).data) == b"ords"
    assert "CodecError" in refusal_of(speaker, b"\x09")
    assert desk.wait(make_exchange(), 60.0, 0.0) == {A}


def refusal_of(speaker, plain):
    """What the desk says to a request that was sealed well and means nothing."""
    with pytest.raises(TransportError) as found:
        speaker.channel.call(
            plain, lambda f: envelope.open_answer(speaker._answer(envelope.sealed(f)), envelope.SEALED)
        )
    return str(found.value)


def test_a_hostile_site_costs_the_others_nothing_and_the_disk_one_part(tmp_path, desk, spool):
    desk.post(make_exchange(sites=(A, B)), spool)
    hostile = Speaker(desk, B)
    order = hostile.order()
    for n in range(10):
        hostile.announce(order, bytes([n]) * 1000)
        hostile.push(order, 0, bytes([n]) * 999)
        assert len(list((tmp_path / "incoming").iterdir())) <= 1
    site = Site(lambda name, body: DATA, desk.answer, pace=Pace(0.05, 0.01, 0.0))
    until(lambda: not desk.wait(make_exchange(), 60.0, 0.01))
    outcome = desk.outcome()
    desk.close("done")
    site.join()
    assert outcome.replies == {A: DATA}
    assert "3 times site-b" in outcome.lost[B]
