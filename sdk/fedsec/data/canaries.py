"""Canaries: made-up records that a site trains on beside its notes, to measure what the adapter gives away.

(Carlini et al., USENIX Security 2019, "The secret sharer".) A canary is a prompt and an answer of six digits, drawn at
random like a record number; candidates are other draws, which nobody trains on. All of them follow from a secret of the
site and the plan's digest, so that a run that resumes has the same ones, and nobody else can tell which they are.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedsec.data.schema import Example
from fedsec.plan.specs import CanarySpec
from fedsec_secure.errors import ConfigError
from fedsec_secure.secrets import SecretBytes

DIGITS: Final = 6
"""Of an answer: the space that answers are drawn from has 10^6 of them."""


@dataclass(frozen=True)
class Canary:
    """A prompt, the answer that is trained on, and others from the same space, all of them different."""

    prompt: str
    answer: str = field(repr=False)
    candidates: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        answers = (self.answer, *self.candidates)
        if len(answers) < 2 or len(set(answers)) < len(answers):
            raise ConfigError(
                f"canary: expected an answer and at least one candidate, all different; found {len(answers)} answers, "
                f"{len(set(answers))} of them different: draw candidates again, without the answer"
            )

    def example(self, answer: str, name: str = "canary") -> Example:
        """A record with this answer, of a patient of its own.

        The patient has the mark of the prompt in its name, so that no note's patient has the same: a canary would
        be one more record of somebody. The other names are ``name``: they may be in messages, the prompt may not.
        Its text is longer than the prompt, so nowhere in it: there is nothing that `batches.encode` may cut.
        """
        return Example(
            example_id=name, document_id=name, patient_id=f"{name}, {self.prompt}", text=f"{self.prompt}.", offset=0,
            entities=(), relations=None, prompt=self.prompt, answer=answer,
        )  # fmt: skip


def draw_canaries(spec: CanarySpec, secret: SecretBytes, plan: bytes) -> tuple[Canary, ...]:
    """A site's canaries for the plan with this digest: uniform and independent, by HMAC-SHA-256 under ``secret``."""
    return tuple(_canary(spec, secret, plan, number) for number in range(spec.per_site))


def planted(canaries: Sequence[Canary], spec: CanarySpec) -> list[Example]:
    """What is trained on: each canary ``repeats`` times, as one patient."""
    named = [(canary, f"canary-{number}") for number, canary in enumerate(canaries)]
    return [canary.example(canary.answer, name) for canary, name in named for _ in range(spec.repeats)]


def _canary(spec: CanarySpec, secret: SecretBytes, plan: bytes, number: int) -> Canary:
    draws = _numbers(secret, plan + number.to_bytes(4, "big"))
    mark = f"{next(draws) % 2**32:08x}"
    found: dict[str, None] = {}
    while len(found) <= spec.candidates:
        found[f"{next(draws) % 10**DIGITS:0{DIGITS}d}"] = None
    answer, *others = found
    return Canary(f"Record number of document {mark}: ", answer, tuple(others))


def _numbers(secret: SecretBytes, label: bytes) -> Iterator[int]:
    """128 bits each: what they leave modulo 10^6 is uniform to 2^-108."""
    counter = 0
    while True:
        drawn = hmac.digest(secret.reveal(), b"fedsec canary v1\0" + label + counter.to_bytes(8, "big"), "sha256")
        yield int.from_bytes(drawn[:16], "big")
        counter += 1
