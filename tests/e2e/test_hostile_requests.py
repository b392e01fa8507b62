"""A coordinator that changes its story, repeats itself, or asks what it must not: what a site answers, and what not."""

from __future__ import annotations

import errno
import fcntl
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedsec.site.ledger import Ledger
from fedsec.site.masked import MaskedAgent
from fedsec.site.store import SiteStore
from fedsec.training.adapter import AdapterState
from fedsec.wire import TrainRequest, core_roster, verdict_context
from fedsec_secure.codec import Header, head_length, open_packet, seal
from fedsec_secure.errors import (
    AbortError,
    ConfigError,
    FedsecError,
    LocalMisuseError,
    PeerViolationError,
    TransportError,
    VerificationError,
)
from fedsec_secure.identity.roster import COORDINATOR
from fedsec_secure.masking.messages import decode_packets, encode_packets
from fedsec_secure.masking.parameters import RoundContext
from tests.e2e.federation import RUN, ArithmeticWork, Federation, Keys, make_plan

SITES = 4  # threshold and floor 3: one may be lost
MASKED = ("train", "share", "mask", "confirm", "unmask", "verdict")


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.generate(SITES)


@dataclass
class Recorder:
    """Asks twice, compares, and keeps the requests."""

    agent: object
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    def handle(self, name: str, body: bytes):
        first = self.agent.handle(name, body)
        content = first if isinstance(first, bytes) else first.read_bytes()
        again = self.agent.handle(name, body)
        assert content == (again if isinstance(again, bytes) else again.read_bytes()), name
        self.requests.append((name, body))
        return first


@pytest.fixture
def recorded(tmp_path, keys):
    """A federation after one whole round of two, with what site-a was asked."""
    recorders = {}

    def wrap(site, agent):
        return recorders.setdefault(site, Recorder(agent))

    plan = make_plan(keys, rounds=1)
    with Federation(tmp_path, keys, plan, wrap=wrap) as federation:
        federation.run()
        yield federation, recorders["site-a"].requests


def test_every_request_repeated_gives_identical_bytes(recorded):
    _, requests = recorded
    assert [name for name, _ in requests] == [*MASKED, "witness", "attest", "witness"]


def resigned(federation: Federation, request: bytes, change) -> bytes:
    """The request with its body changed, signed by the real coordinator."""
    end = head_length(request)
    header = Header.decode(request[6 : end - 64])
    return seal(header.kind, COORDINATOR, header.context, change(request[end:]), federation.keys.coordinator.sign)


@pytest.mark.parametrize("exchange", MASKED)
def test_after_its_round_no_other_request_is_answered(recorded, exchange):
    federation, requests = recorded
    request = dict(requests)[exchange]
    other = resigned(federation, request, lambda body: bytes([*body[:-1], body[-1] ^ 1]))
    with pytest.raises(FedsecError):
        federation.agents["site-a"].handle(exchange, other)


@dataclass
class TwoFaced:
    """Before the honest request of one exchange, or after it, the coordinator tries another one of its own."""

    agent: object
    exchange: str
    forge: object
    refusals: list[str] = field(default_factory=list)

    def handle(self, name: str, body: bytes):
        reply = self.agent.handle(name, body)
        if name == self.exchange:
            try:
                self.agent.handle(name, self.forge(body))
            except FedsecError as e:
                self.refusals.append(f"{type(e).__name__}: {e}")
        return reply


def drop_last(body: bytes) -> bytes:
    packets = decode_packets(body, "test")
    packets.popitem()
    return encode_packets(packets)


@pytest.mark.parametrize(("exchange", "why"), [("share", "answered before"), ("confirm", "answered before")])
def test_a_second_smaller_set_is_refused_in_the_middle_of_a_round(tmp_path, keys, exchange, why):
    """Two survivor sets would open one site's update by their difference."""
    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1))
    liars = {}

    def wrap(site, agent):
        return liars.setdefault(site, TwoFaced(agent, exchange, lambda body: resigned(federation, body, drop_last)))

    federation.wrap = wrap
    with federation:
        federation.run()
    for site in ("site-a", "site-b"):
        assert len(liars[site].refusals) == 1
        assert "PeerViolationError" in liars[site].refusals[0]
        assert why in liars[site].refusals[0]


class Away:
    """A site that misses one `train`."""

    def __init__(self, agent) -> None:
        self.agent, self.missed = agent, False

    def handle(self, name: str, body: bytes):
        if name == "train" and not self.missed:
            self.missed = True
            raise TransportError("connection refused")
        return self.agent.handle(name, body)


def away(absent: str):
    return lambda site, agent: Away(agent) if site == absent else agent


def train_request(federation: Federation, adapter: AdapterState, number: int, attempt: int = 0, **options) -> bytes:
    plan, run = federation.plan, options.get("run", RUN)
    roster = core_roster(plan).digest()
    context = RoundContext(plan.digest(), run, number, attempt, roster, adapter.digest()).digest()
    body = TrainRequest(run, number, attempt, adapter.to_bytes(), options.get("verdicts", {})).encode()
    signer = options.get("signer", federation.keys.coordinator)
    return seal("train-request", COORDINATOR, context, body, signer.sign)


def nudged(adapter: AdapterState) -> AdapterState:
    return adapter.unflatten(adapter.flatten() + np.float32(1e-3))


def test_another_first_adapter_is_refused(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        agent, initial = federation.agents["site-a"], federation.initial()
        with pytest.raises(PeerViolationError, match="round 0 does not start from the adapter that the plan fixes"):
            agent.handle("train", train_request(federation, nudged(initial), 0))
        with pytest.raises(FedsecError):
            agent.handle("train", train_request(federation, initial, 0, signer=keys.sites["site-b"]))
        assert federation.works["site-a"].trained == []
        agent.handle("train", train_request(federation, initial, 0))
        assert federation.works["site-a"].trained == [0]


class Recorded(Exception):
    """Stops a run."""


def after_round_0(folder, keys, absent: str) -> tuple[Federation, AdapterState, dict[str, bytes]]:
    """A federation whose round 0 is over, ``absent`` having been away; its adapter and verdicts."""
    seen = {}

    class Stop:
        def __init__(self, transport):
            self.transport = transport

        def exchange(self, exchange, spool):
            if exchange.round == 1:
                seen["request"] = exchange.requests[absent]
                raise Recorded
            return self.transport.exchange(exchange, spool)

    federation = Federation(folder, keys, make_plan(keys), wrap=away(absent), carry=Stop)
    federation.__enter__()
    with pytest.raises(Recorded):
        federation.run()
    verify = keys.coordinator.public.verify
    body = open_packet(seen["request"], kind="train-request", sender=COORDINATOR, context=None, verify=verify)
    request = TrainRequest.decode(body)
    return federation, AdapterState.from_bytes(request.adapter), dict(request.verdicts)


def test_the_next_round_starts_from_the_sum_that_was_verified(tmp_path, keys):
    federation, adapter, verdicts = after_round_0(tmp_path, keys, "site-d")
    try:
        present, away = federation.agents["site-a"], federation.agents["site-d"]
        other = nudged(adapter)
        with pytest.raises(PeerViolationError, match="does not start from the sum that this site verified"):
            present.handle("train", train_request(federation, other, 1, verdicts=verdicts))
        with pytest.raises(PeerViolationError, match="attests another adapter"):
            away.handle("train", train_request(federation, other, 1, verdicts=verdicts))
        few = dict(list(verdicts.items())[:2])
        with pytest.raises(AbortError, match="2 of the 3 verdicts"):
            away.handle("train", train_request(federation, adapter, 1, verdicts=few))
        forged = verdicts | {"site-a": verdicts["site-b"]}
        with pytest.raises(FedsecError):
            away.handle("train", train_request(federation, adapter, 1, verdicts=forged))
        context = verdict_context(federation.plan.digest(), RUN, 0, core_roster(federation.plan).digest())
        stranger = Keys.generate(1).coordinator
        invented = seal("verdict", "site-d", context, adapter.digest(), stranger.sign)
        with pytest.raises(FedsecError):
            away.handle("train", train_request(federation, adapter, 1, verdicts=few | {"site-d": invented}))
        away.handle("train", train_request(federation, adapter, 1, verdicts=verdicts))
        with pytest.raises(PeerViolationError, match="is behind this site"):
            away.handle("train", train_request(federation, federation.initial(), 0, attempt=1))
    finally:
        federation.__exit__()


def test_no_other_attempt_after_a_confirmed_survivor_set(tmp_path, keys):
    refused = []

    class Impatient:
        def __init__(self, agent):
            self.agent = agent

        def handle(self, name, body):
            reply = self.agent.handle(name, body)
            if name == "confirm":
                with pytest.raises(
                    PeerViolationError, match="is confirmed in attempt 0 of round 0, and joins no other"
                ) as caught:
                    self.agent.handle("train", train_request(federation, federation.initial(), 0, attempt=1))
                refused.append(caught.value)
            return reply

    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=lambda _, agent: Impatient(agent))
    with federation:
        federation.run()
    assert len(refused) == SITES


def test_a_policy_limits_the_runs_of_a_plan(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys), max_runs=1) as federation:
        agent, initial = federation.agents["site-a"], federation.initial()
        agent.handle("train", train_request(federation, initial, 0))
        with pytest.raises(PeerViolationError, match="max_runs = 1 for one plan, and 1 began"):
            agent.handle("train", train_request(federation, initial, 0, run="run-2"))


def test_a_withdrawn_approval_stops_a_site_before_its_next_answer(tmp_path, keys):
    def authorise():
        if withdrawn:
            raise ConfigError("the approval was taken away")

    withdrawn = []
    with Federation(tmp_path, keys, make_plan(keys), authorise=authorise) as federation:
        request = train_request(federation, federation.initial(), 0)
        federation.agents["site-a"].handle("train", request)
        withdrawn.append(True)
        with pytest.raises(ConfigError, match="taken away"):
            federation.agents["site-a"].handle("train", request)


def test_a_plan_that_names_this_site_with_another_key_is_not_taken_up(tmp_path, keys):
    other = Keys.generate(SITES)
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        agent = federation.agents["site-a"]
        with pytest.raises(PeerViolationError, match="does not name site-a with this site's key"):
            MaskedAgent(agent._id, make_plan(other), federation.stores["site-a"], federation.works["site-a"])


def test_one_state_folder_has_one_process(tmp_path):
    store = SiteStore(tmp_path / "state")
    with pytest.raises(ConfigError, match="another process holds"):
        SiteStore(tmp_path / "state")
    store.close()
    SiteStore(tmp_path / "state").close()


def test_a_state_folder_on_a_disk_without_locks_is_refused(tmp_path, monkeypatch):
    """Two processes of one site would answer there."""

    def none_here(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    for opened in (SiteStore, lambda folder: Ledger(folder / "ledger.sqlite", "ward", "patient")):
        with pytest.raises(ConfigError, match=r"state: expected a file system that locks files, .*No locks available"):
            opened(tmp_path / "state")


def test_after_the_verdict_the_rounds_secrets_are_in_no_file(tmp_path, keys):
    """Not in the database, nor in its write-ahead log, while the site goes on running."""
    secrets = []

    class Spy:
        def __init__(self, site, agent):
            self.store, self.agent = federation.stores[site], agent

        def handle(self, name, body):
            reply = self.agent.handle(name, body)
            if name in ("train", "share", "mask"):
                record = self.store._db.execute("SELECT record FROM stages WHERE stage = ?", (name,)).fetchone()[0]
                found = [record[at : at + 32] for at in secret_places(name, record)]
                there = everything(tmp_path / "state")
                assert all(secret in there for secret in found), "the search does not find what is there"
                secrets.extend(found)
            return reply

    federation = Federation(tmp_path, keys, make_plan(keys, rounds=1), wrap=Spy)
    with federation:
        federation.run()
        left = everything(tmp_path / "state")
        assert len(secrets) == 5 * SITES
        assert not [s for s in secrets if s in left]


def everything(folder) -> bytes:
    return b"\0".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def secret_places(name: str, record: bytes) -> list[int]:
    """Offsets of the 32-byte secrets: three of a stated record, the seed of a shared one (after the stated blob), the
    tag key of a masked one (after the shared blob and the bound context).
    """
    if name == "train":
        start = 2 + len("site stated v1") + 2 + len("site-a") + 32
        return [start, start + 32, start + 64]
    blob = 2 + len("site shared v1")  # the masked record's title is as long
    end = blob + 4 + int.from_bytes(record[blob : blob + 4], "big")
    return [end + 32 if name == "mask" else end]


# ---- requests that one check alone refuses


def test_a_train_request_whose_signature_is_for_another_round(tmp_path, keys):
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        request = train_request(federation, federation.initial(), 0)
        end = head_length(request)
        sign = federation.keys.coordinator.sign
        other = seal("train-request", COORDINATOR, bytes(32), request[end:], sign)
        with pytest.raises(PeerViolationError, match="is signed for another plan, run, round, roster or adapter"):
            federation.agents["site-a"].handle("train", other)


@pytest.mark.parametrize(("run", "number"), [("Run 1", 0), ("../run", 0), (RUN, 2)])
def test_a_run_id_or_round_that_no_plan_has(tmp_path, keys, run, number):
    with Federation(tmp_path, keys, make_plan(keys, rounds=2)) as federation:
        request = train_request(federation, federation.initial(), number, run=run)
        with pytest.raises(PeerViolationError, match=r"expected a run id of .* and a round below 2"):
            federation.agents["site-a"].handle("train", request)


def test_an_update_that_overflows_is_not_stored(tmp_path, keys):
    """Two finite adapters whose difference is infinite."""

    class Far(ArithmeticWork):
        def initial_adapter(self):
            start = super().initial_adapter()
            return start.unflatten(np.full(start.size, -3e38, np.float32))

        def train(self, adapter, run, round_index, checkpoint):
            return adapter.unflatten(np.full(adapter.size, 3e38, np.float32))

    with Federation(tmp_path, keys, make_plan(keys), work=Far) as federation, np.errstate(over="ignore"):
        with pytest.raises(LocalMisuseError, match="training gave NaN or infinity"):
            federation.agents["site-a"].handle("train", train_request(federation, federation.initial(), 0))
        assert federation.stores["site-a"].update(RUN, 0) is None


def test_a_round_is_trained_from_one_adapter(tmp_path):
    store = SiteStore(tmp_path / "state")
    store.start_round(RUN, 0, bytes(32), b"adapter")
    with pytest.raises(PeerViolationError, match="round 0 was started here from another adapter"):
        store.start_round(RUN, 0, bytes([1]) * 32, b"another")
    assert store.adapter(RUN, 0) == b"adapter"
    store.close()


def test_an_update_that_was_changed_on_disk_is_not_sent(tmp_path, keys):
    """It would go out under the masks of the one that was recorded."""
    with Federation(tmp_path, keys, make_plan(keys)) as federation:
        agent = federation.agents["site-a"]
        agent.handle("train", train_request(federation, federation.initial(), 0))
        (path,) = (tmp_path / "state" / "site-a").glob("*.update")
        path.write_bytes(bytes(len(path.read_bytes())))
        with pytest.raises(VerificationError, match="is not the update that was recorded: this site sits the run out"):
            agent.handle("train", train_request(federation, federation.initial(), 0, attempt=1))


def test_a_site_that_attests_another_adapter_is_set_aside_and_named(tmp_path, keys):
    class Liar:
        def __init__(self, agent):
            self.agent = agent

        def handle(self, name, body):
            reply = self.agent.handle(name, body)
            if name != "verdict":
                return reply
            context = verdict_context(federation.plan.digest(), RUN, 0, core_roster(federation.plan).digest())
            return seal("verdict", "site-b", context, bytes(32), keys.sites["site-b"].sign)

    federation = Federation(
        tmp_path, keys, make_plan(keys, rounds=1), wrap=lambda s, agent: Liar(agent) if s == "site-b" else agent
    )
    with federation:
        federation.run()
    (refused,) = (e["sites"] for e in federation.events if e["event"] == "refused")
    assert refused == {"site-b": "site-b computed another adapter from the same sum"}
