"""The attack table of encrypted sums: modes `he-mask` and `he`."""

from __future__ import annotations

from fedsec.attacks import hostile_bytes, one_key, released, wrong_sum
from fedsec.attacks.outcome import Attack
from fedsec.attacks.sealed import SealedTarget
from fedsec.plan.encryption import WEIGHT_UNITS
from fedsec_secure.he.parameters import STANDARD

_C = "coordinator"
_CS = "coordinator and one site"
_ALL = "refused in one message, and the key is gone"
_NVFLARE = "NVFlare: sites decrypt what comes"
ATTACKS: tuple[Attack[SealedTarget], ...] = (
    Attack(
        "key on its way",
        _C,
        "the key is dealt to the sites of the roster, and passes sealed",
        "key substitution",
        one_key.key_on_its_way,
    ),
    Attack("one upload as the sum (he-mask)", _C, _ALL, _NVFLARE, wrong_sum.OneUpload("he-mask")),
    Attack("one upload as the sum (he)", _C, _ALL, _NVFLARE, wrong_sum.OneUpload("he")),
    Attack("another sum (he-mask)", _C, _ALL, _NVFLARE, wrong_sum.AnotherSum("he-mask")),
    Attack("another sum (he)", _C, _ALL, _NVFLARE, wrong_sum.AnotherSum("he")),
    Attack("other weights (he)", _C, _ALL, "DESIGN: weights are a function of the statements", wrong_sum.other_weights),
    Attack("replayed sum (he-mask)", _C, _ALL, "stale ciphertexts", wrong_sum.Replay("he-mask")),
    Attack("replayed sum (he)", _C, _ALL, "stale ciphertexts", wrong_sum.Replay("he")),
    Attack("changed bytes (he-mask)", _C, _ALL, "decryption oracle", wrong_sum.Changed("he-mask")),
    Attack("changed bytes (he)", _C, _ALL, "decryption oracle", wrong_sum.Changed("he")),
    Attack(
        "one site's key (he-mask)",
        _CS,
        "it opens the sum, and of another site's upload the masks",
        "NVFlare: one key for all sites",
        one_key.one_key_under_masks,
    ),
    Attack(
        "one site's key (he)",
        _CS,
        "it opens every site's update, as the officer is told before approving",
        "NVFlare: one key for all sites",
        one_key.one_key_alone,
        kind="stated",
    ),
    Attack(
        "too many sites (he-mask)",
        _C,
        "no plan whose sums might decrypt wrongly",
        "SEAL decrypts wrongly past its bound, in silence",
        hostile_bytes.TooManySites("he-mask", "uniform", STANDARD.capacity),
    ),
    Attack(
        "too many sites (he)",
        _C,
        "no plan whose sums might decrypt wrongly",
        "SEAL decrypts wrongly past its bound, in silence",
        hostile_bytes.TooManySites("he", "influence", WEIGHT_UNITS // 2),
    ),
    Attack(
        "oversized weights (he)",
        _C,
        "no sum is opened whose weights are past the bound",
        "SEAL decrypts wrongly past its bound, in silence",
        hostile_bytes.too_heavy,
    ),
    Attack(
        "hostile bytes",
        _C,
        "one refusal without a reason, in a process of its own that goes on",
        "SEAL's parser is not made for hostile bytes",
        hostile_bytes.hostile_bytes,
    ),
    Attack(
        "key from opened sums",
        _CS,
        "sums that sites show give nothing of the key",
        "Li and Micciancio 2021",
        released.key_from_sums,
    ),
    Attack(
        "the same on CKKS (control)",
        "anyone",
        "it gives the key: why CKKS is not offered, and that the attack works",
        "Li and Micciancio 2021; NVFlare: CKKS",
        released.ckks_control,
        kind="control",
    ),
)
