"""Log entries: one text each, and nothing that the model does not name."""

import hashlib
import json
import typing

import pytest
from pydantic import ValidationError

from fedsec_secure.errors import CodecError
from fedsec_secure.record.entries import (
    LEAF_DOMAIN,
    MAX_ENTRY_BYTES,
    AggregateEntry,
    AnsweredEntry,
    ApprovalEntry,
    AttestationEntry,
    DrawEntry,
    Entry,
    LedgerHeadEntry,
    ModelEntry,
    RefusalEntry,
    RoundStartedEntry,
    RunFinishedEntry,
    ScoresEntry,
    SurvivorsEntry,
    decode_entry,
)

A, B, C = "a" * 64, "b" * 64, "0123456789abcdef" * 4
SITES = ("site-a", "site-b", "site-c")
ENTRIES = [
    ApprovalEntry(plan_sha256=A, policy_sha256=B, site="site-a", officers=(C,)),
    RoundStartedEntry(run="cdr-01ab", round=1, attempt=0, context_sha256=A),
    SurvivorsEntry(run="cdr-01ab", round=1, sites=SITES, uploads_sha256=A),
    DrawEntry(run="cdr-01ab", groups=(SITES, ("site-d", "site-e", "site-f")), commitments_sha256=A, reveals_sha256=B),
    ScoresEntry(run="cdr-01ab", round=1, scores_sha256=A),
    AggregateEntry(run="cdr-01ab", round=1, sum_sha256=A, adapter_before_sha256=B, adapter_after_sha256=C),
    LedgerHeadEntry(site="site-a", head_sha256=A),
    AnsweredEntry(at=1, run="cdr-01ab", exchange="mask", round=1, attempt=0, answer_sha256=A),
    AttestationEntry(run="cdr-01ab", site="site-a", attestation_sha256=A, exclusions_hmac_sha256=None),
    ModelEntry(
        adapter_sha256=A,
        base_weights_sha256=B,
        run="cdr-01ab",
        plan_sha256=C,
        sites=SITES,
        strategy="fedit",
        rank=16,
    ),
    RefusalEntry(site="site-b", exchange="confirm", reason="2 sites left; this site takes part from 3 on"),
    RunFinishedEntry(run="cdr-01ab", rounds=30, adapter_sha256=A),
]
REFUSAL = {"exchange": "train", "kind": "refusal", "reason": "no", "site": "site-a"}


def leaf(value):
    return LEAF_DOMAIN + json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_every_kind_is_here_once():
    assert {type(e) for e in ENTRIES} == set(typing.get_args(Entry))
    assert len({e.kind for e in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.kind)
def test_round_trip_in_one_form(entry):
    data = entry.leaf_data()
    assert decode_entry(data) == entry
    fields = json.loads(data[len(LEAF_DOMAIN) :])
    assert data == leaf(fields)
    assert entry.leaf_hash() == hashlib.sha256(b"\0fedsec log entry v1\0" + data[len(LEAF_DOMAIN) :]).digest()
    with pytest.raises(CodecError, match="extra_forbidden"):
        decode_entry(leaf({**fields, "note": "secret"}))
    for name in fields:
        with pytest.raises(CodecError):
            decode_entry(leaf({k: v for k, v in fields.items() if k != name}))
        for value in (None, True, 1.5, "", "\n", "A" * 64, -1, 0.0, 1 << 60, [], ["b", "a"], {}):
            good = [("attempt", 0.0), ("exclusions_hmac_sha256", None)]
            if name not in {"reason", "run"} and (name, value) not in good:
                with pytest.raises(CodecError):
                    decode_entry(leaf({**fields, name: value}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LEAF_DOMAIN,
        leaf(REFUSAL)[len(LEAF_DOMAIN) :],
        LEAF_DOMAIN.replace(b"v1", b"v2") + leaf(REFUSAL)[len(LEAF_DOMAIN) :],
        leaf(REFUSAL) + b"\n",
        LEAF_DOMAIN + b" " + leaf(REFUSAL)[len(LEAF_DOMAIN) :],
        LEAF_DOMAIN + b"\xef\xbb\xbf" + leaf(REFUSAL)[len(LEAF_DOMAIN) :],
        leaf(REFUSAL).replace(b'"site":', b'"site":"b","site":'),
        leaf(REFUSAL).replace(b'"no"', b'"n\\u006f"'),
        LEAF_DOMAIN + json.dumps(REFUSAL).encode(),
        LEAF_DOMAIN + json.dumps(dict(reversed(REFUSAL.items())), separators=(",", ":")).encode(),
        leaf([REFUSAL]),
        leaf({**REFUSAL, "kind": "approval"}),
        leaf({**REFUSAL, "kind": "unknown"}),
        leaf({**REFUSAL, "kind": None}),
        leaf({**REFUSAL, "reason": ""}),
        leaf({**REFUSAL, "reason": "a\nb"}),
        leaf({**REFUSAL, "reason": "\u202egnp.exe"}),
        leaf({**REFUSAL, "reason": "a\u2028b"}),
        leaf({**REFUSAL, "reason": "a" * 501}),
        leaf({**REFUSAL, "site": "Site"}),
        leaf({**REFUSAL, "site": "s" * 32}),
        leaf(REFUSAL).replace(b'"no"', b'"\\ud800"'),
        leaf(REFUSAL).replace(b'"no"', b'"\xff"'),
        leaf({**json.loads(ENTRIES[1].leaf_data()[len(LEAF_DOMAIN) :]), "round": -1}),
        ENTRIES[1].leaf_data().replace(b'"round":1', b'"round":1.0'),
        ENTRIES[1].leaf_data().replace(b'"round":1', b'"round":1e0'),
        ENTRIES[1].leaf_data().replace(b'"round":1', b'"round":4294967296'),
        leaf({**json.loads(ENTRIES[2].leaf_data()[len(LEAF_DOMAIN) :]), "sites": ["site-b", "site-a"]}),
        leaf({**json.loads(ENTRIES[2].leaf_data()[len(LEAF_DOMAIN) :]), "sites": ["site-a", "site-a"]}),
        leaf({**json.loads(ENTRIES[2].leaf_data()[len(LEAF_DOMAIN) :]), "sites": [f"s{i:04}" for i in range(1001)]}),
        LEAF_DOMAIN + b"[" * 60000,
        LEAF_DOMAIN + b"1" * MAX_ENTRY_BYTES,
    ],
)
def test_any_other_text_is_refused(data):
    with pytest.raises(CodecError):
        decode_entry(data)


def test_the_size_and_the_domain_are_checked_before_json_is_read():
    with pytest.raises(CodecError, match=f"at most {MAX_ENTRY_BYTES} bytes; found {MAX_ENTRY_BYTES + 1}"):
        decode_entry(LEAF_DOMAIN.ljust(MAX_ENTRY_BYTES + 1, b"1"))
    with pytest.raises(CodecError, match="a leaf begins with"):
        decode_entry(leaf(REFUSAL)[1:])


def test_errors_hold_nothing_of_what_arrived():
    for value in (
        {**REFUSAL, "site": "Frau Muster"},
        {**REFUSAL, "Frau Muster": 1},
        {**REFUSAL, "kind": "Frau Muster"},
    ):
        with pytest.raises(CodecError) as caught:
            decode_entry(leaf(value))
        assert "Muster" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(ValidationError) as built:
        LedgerHeadEntry(site="Frau Muster", head_sha256=A)
    assert "Muster" not in str(built.value)


def test_the_largest_entry_fits():
    sites = tuple(f"{'s' * 27}{i:04}" for i in range(1000))
    for entry in (
        SurvivorsEntry(run="r" * 64, round=1, sites=sites, uploads_sha256=A),
        RefusalEntry(site="s" * 31, exchange="confirm", reason="\U0001f3e5" * 500),
    ):
        assert decode_entry(entry.leaf_data()) == entry


def test_entries_do_not_change():
    with pytest.raises(ValidationError):
        ENTRIES[0].site = "site-b"
