"""Mutated real messages into every decoder that meets bytes from outside: a value or the decoder's error, nothing else.

    python -m tests.property.fuzz --seconds 600

Runs each decoder in turn until the time is over, prints how many inputs it took and how many of them were values, and
stops at the first other exception with the input that caused it. The test runs a short one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import time
from functools import cache, partial
from pathlib import Path

from fedsec.engines.link import envelope
from fedsec.engines.link import messages as link
from fedsec.plan.approval import Approval
from fedsec.plan.document import parse_canonical
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy, draft_policy
from fedsec.plan.revocation import open_revocation, revoke
from fedsec.plan.withdrawal import open_withdrawal, withdraw
from fedsec.training.adapter import AdapterState
from fedsec.wire import CatchUp, EncryptedStart, TrainRequest, VerdictRequest
from fedsec_secure.codec import Header, head_length, open_head, open_packet
from fedsec_secure.errors import CodecError, ConfigError, PeerViolationError, TransportError, VerificationError
from fedsec_secure.he.parameters import STANDARD
from fedsec_secure.he.ring import SumFrames
from fedsec_secure.identity.envelope import open_envelope, sign_envelope
from fedsec_secure.identity.keys import SigningKey
from fedsec_secure.identity.pkcs8 import decode_private_key
from fedsec_secure.identity.roster import SiteId
from fedsec_secure.masking.group_messages import CombineRequest, GroupSum, Scores
from fedsec_secure.masking.messages import Dealing, MaskRequest, Revealed, ShareReply, Statement, decode_packets
from tests.e2e.federation import ArithmeticWork, Keys, make_plan
from tests.property.record_targets import record_targets
from tests.property.target import Target, method

VECTORS = Path(__file__).parents[1] / "vectors"


def _bodies() -> dict[str, list[bytes]]:
    """Bodies of the messages of a committed round, by kind."""
    v = json.loads((VECTORS / "round_3x21.json").read_text(encoding="utf-8"))
    packets = [bytes.fromhex(x) for site in v["sites"].values() for x in site["sent"].values()]
    packets += [bytes.fromhex(x) for x in v["requests"].values()]
    shares = [bytes.fromhex(site["sent"]["share"]) for site in v["sites"].values()]
    packets = [p for p in packets if p not in shares] + [ShareReply.decode(s).packet for s in shares]
    found: dict[str, list[bytes]] = {"share": shares, "packet": packets}
    for packet in packets:
        cut = head_length(packet)
        header = Header.decode(packet[6 : cut - 64])
        found.setdefault(header.kind, []).append(packet[cut:])
        found.setdefault("header", []).append(packet[6 : cut - 64])
    return found


@cache
def targets() -> dict[str, Target]:
    """By name."""
    b, keys = _bodies(), Keys.generate(3)
    plan = make_plan(keys)
    policy = draft_policy(plan, datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
    adapter = ArithmeticWork("site-a", plan).initial_adapter()
    officer = SigningKey.generate()
    envelope = sign_envelope("application/vnd.fedsec.plan+json", plan.canonical(), officer)
    train = TrainRequest("run-1", 1, 0, adapter.to_bytes(), {"site-a": b["packet"][0]}).encode()
    packet = b["packet"][0]
    combine = b"".join(CombineRequest(packet, [{SiteId("site-a"): packet}] * 2, [bytes(16)] * 2).parts())
    sums = {0: CatchUp((1, 7, 2), 1, 10, bytes(80)), 3: CatchUp((1,) * 5, 9, 30, bytes(8))}
    missed = [EncryptedStart(bytes(32), {}).encode(), EncryptedStart(bytes(range(32)), sums).encode()]
    verdict = b"".join(VerdictRequest({"site-a": b["packet"][0]}, 5, bytes(64)).parts())
    anyone = officer.public.verify
    moment, other = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC), SigningKey.generate()
    rotation = revoke(officer.public, [officer, other], reason="fuzz", at=moment, replaced_by=other.public)
    withdrawal = withdraw("5a" * 16, "5a" * 32, "site-a", officer, reason="fuzz", at=moment)

    return {
        "header": Target(Header.decode, b["header"], encode=method("encode")),
        "statement": Target(Statement.decode, b["statement"], encode=method("encode")),
        "scored statement": Target(
            partial(Statement.decode, scored=True), [s + b"\x07" for s in b["statement"]], encode=method("encode")
        ),
        "dealing": Target(Dealing.decode, b["dealing"], encode=method("encode")),
        "share reply": Target(ShareReply.decode, b["share"], encode=method("encode")),
        "mask request": Target(MaskRequest.decode, b["mask-request"], encode=method("encode")),
        "revealed": Target(Revealed.decode, b["unmask"], encode=method("encode")),
        "packets": Target(lambda data: decode_packets(data, "fuzz"), b["share-request"] + b["unmask-request"]),
        "train request": Target(TrainRequest.decode, [train], encode=method("encode")),
        "group sum": Target(
            GroupSum.decode, [GroupSum((SiteId("a"), SiteId("b")), bytes(32)).encode()], encode=method("encode")
        ),
        "scores": Target(Scores.decode, [Scores((bytes(32),) * 2, (3, 255), 4).encode()], encode=method("encode")),
        "combine request": Target(CombineRequest.decode, [combine], encode=lambda value: b"".join(value.parts())),
        "encrypted start": Target(EncryptedStart.decode, missed, encode=method("encode")),
        "verdict request": Target(VerdictRequest.decode, [verdict], encode=lambda value: b"".join(value.parts())),
        "packet": Target(
            lambda data: open_packet(data, kind="confirm", sender="site-a", context=None, verify=anyone),
            b["packet"],
            (CodecError, VerificationError, PeerViolationError),
        ),
        "head": Target(
            lambda data: open_head(data, kind="masked", sender="site-a", context=bytes(32), verify=lambda s, d: None),
            b["packet"],
            (CodecError, PeerViolationError),
        ),
        "adapter": Target(lambda data: AdapterState.from_bytes(data, adapter.shapes), [adapter.to_bytes()]),
        "plan": Target(
            lambda data: parse_canonical(data, Plan, "fuzz"), [plan.canonical()], encode=method("canonical")
        ),
        "policy": Target(
            lambda data: parse_canonical(data, Policy, "fuzz"), [policy.canonical()], encode=method("canonical")
        ),
        "approval": Target(lambda data: parse_canonical(data, Approval, "fuzz"), [policy.canonical(), b"{}"]),
        "envelope": Target(
            lambda data: open_envelope(data, "application/vnd.fedsec.plan+json", [officer.public]),
            [envelope],
            (CodecError, VerificationError),
        ),
        "revocation": Target(open_revocation, [rotation], (VerificationError,)),
        "withdrawal": Target(
            lambda data: open_withdrawal(data, "site-a", [officer.public]), [withdrawal], (VerificationError,)
        ),
        "key file": Target(lambda data: decode_private_key(data, None, "fuzz"), [_key_file(officer)], (ConfigError,)),
        "encrypted sum": Target(
            partial(SumFrames.decode, parameters=STANDARD, words=1, addends=2),
            [bytes(STANDARD.sum_bytes(1, 2))],
            encode=lambda value: b"".join(value.parts()),
        ),
        **record_targets(),
        **_link_targets(),
    }


def _link_targets() -> dict[str, Target]:
    """The frames between sites and the coordinator, outside the channel and inside it."""
    data, digest = memoryview(bytes(range(20))), bytes(range(32))
    asks = (
        link.Next(15_000, 7),
        link.Pull(7, 1 << 20, 1 << 18),
        link.Announce(7, True, 20, digest),
        link.Push(7, 0, data),
        link.Refuse(7, "AbortError: no"),
        link.Heard(),
    )
    says = (
        link.Order(7, "train", 20, digest),
        link.Nothing(),
        link.Rest(),
        link.Over("done"),
        link.Piece(data),
        link.Have(20),
        link.Gone(),
    )
    hello, welcome = envelope.greeting(SiteId("site-a"), bytes(40)), envelope.welcomed(bytes(40))
    return {
        "link request": Target(link.decode_request, [link.encode_request(m) for m in asks], encode=link.encode_request),
        "link answer": Target(link.decode_answer, [link.encode_answer(m) for m in says], encode=link.encode_answer),
        "link greeting": Target(envelope.open_greeting, [hello], encode=lambda value: envelope.greeting(*value)),
        "link welcome": Target(
            partial(envelope.open_answer, expected=envelope.GREETING),
            [welcome],
            (CodecError, TransportError),
            envelope.welcomed,
        ),
    }


def _key_file(key: SigningKey) -> bytes:
    from fedsec_secure.identity.pkcs8 import encode_private_key

    return encode_private_key(key._key, None)


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four edits: a bit, a byte, an interesting length, a cut, a repeat, a piece of another message."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(out))
        match rng.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                out[at : at + 2] = rng.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\3\xe9"))
            case 3:
                out[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\0\0\0\1", b"\x7f\xff\xff\xff"))
            case 4:
                del out[at : at + rng.randint(1, 40)]
            case 5:
                out[at:at] = out[at : at + rng.randint(1, 40)]
            case 6:
                start = rng.randint(0, len(other))
                out[at : at + rng.randint(0, 40)] = other[start : start + rng.randint(1, 80)]
            case _:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(out)


def check(target: Target, data: bytes) -> bool:
    """Whether ``data`` is a value; an exception that the decoder may not raise passes through."""
    try:
        value = target.read(data)
    except target.errors:
        return False
    assert target.encode is None or target.encode(value) == data, f"two encodings of one value: {data.hex()}"
    return True


def fuzz(name: str, seed: int, *, seconds: float = float("inf"), cases: int = 1 << 62) -> tuple[int, int]:
    """(inputs, values among them) of one decoder, until either limit."""
    target, rng = targets()[name], random.Random(f"{name} {seed}")
    every = [good for t in targets().values() for good in t.good]
    end, done, values = time.monotonic() + seconds, 0, 0
    while done < cases and (done % 64 or time.monotonic() < end):
        data = mutated(rng.choice(target.good), rng.choice(every), rng)
        try:
            values += check(target, data)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__} from {data.hex()}") from error
        done += 1
    return done, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in targets():
        done, values = fuzz(name, given.seed, seconds=given.seconds / len(targets()))
        print(f"{name:16} {done:>10,} inputs, {values:>8,} of them values")  # noqa: T201


if __name__ == "__main__":
    main()
