"""What tests of runs with encrypted uploads share: workers without processes, sites that are away, adapters held."""

from __future__ import annotations

from fedsec.encryption.workers import UNOPENED
from fedsec.plan.encryption import most_addends
from fedsec.training.adapter import AdapterState
from fedsec.training.strategies import shared_names
from fedsec.wire import sum_parameters
from fedsec_secure.errors import PeerViolationError, TransportError
from fedsec_secure.he.cipher import BfvCipher
from fedsec_secure.secrets import SecretBytes
from tests.e2e.federation import RUN, Federation, Steady, make_plan
from tests.sim.network import InProcess as Direct

SITES, ROUNDS = 5, 3


class InProcess:
    """Stands for the workers where a test is not about them: the same cipher, without a process of its own."""

    def __init__(self, key: SecretBytes, count: int | None = None, progress: object = None) -> None:
        self._cipher = BfvCipher(key)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._cipher.close()

    def encrypting(self, write):
        return Direct(self._cipher, write)

    def decrypt(self, total, words, weights=None):
        found = self._cipher.decrypt(total, weights)
        if found[words:].any():
            raise PeerViolationError(UNOPENED)
        return found[:words]


def encrypted_plan(keys, **options):
    return make_plan(keys, **({"mode": "he-mask", "rounds": ROUNDS} | options))


def opened(folder, keys, plan, **options) -> Federation:
    return Federation(folder, keys, plan, **({"work": Steady} | options))


def finals(federation: Federation) -> dict[str, AdapterState]:
    found = {}
    for name, agent in federation.agents.items():
        if federation.stores[name].newest_round(RUN) == federation.plan.rounds:
            found[name] = agent.final_adapter(RUN)
    return found


def bound(plan, adapter: AdapterState) -> float:
    """How far decoded means of all rounds may be from exact ones, together."""
    length = sum(adapter[n].size for n in shared_names(plan.lora.strategy, adapter, 0))
    if plan.weighting.rule == "influence":  # each upload as often as it weighs, so every unit is off by a step
        addends = most_addends(plan, SITES)
        return plan.rounds * sum_parameters(plan, length).error_bound(addends, addends)
    least = 1 if plan.weighting.rule == "uniform" else 10
    return plan.rounds * sum_parameters(plan, length).error_bound(SITES, SITES * least)


class Away:
    """One site that answers an exchange of some rounds no more, or whose answer is lost on its way."""

    def __init__(self, agent, exchange: str, rounds: set[int], lost_reply: bool = False) -> None:
        self.agent, self.exchange, self.rounds, self.lost_reply = agent, exchange, rounds, lost_reply
        self.seen = -1

    def handle(self, name: str, body: bytes):
        self.seen += name == "train"
        if name == self.exchange and self.seen in self.rounds:
            if self.lost_reply:
                self.agent.handle(name, body)
            raise TransportError("connection refused")
        return self.agent.handle(name, body)


class Stopped(BaseException):
    """Ctrl-C."""
