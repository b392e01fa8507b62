"""The allow-list of a log: what passes, and that nothing else does."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fedsec.ops.fields import error_class, public_event, public_text


def test_an_exchange_keeps_what_operates_a_run():
    event = {
        "event": "exchange",
        "round": 1,
        "attempt": 0,
        "exchange": "train",
        "seconds": 1.23456,
        "bytes_down": {"site-a": 10},
        "bytes_up": {"site-a": 20},
        "lost": {"site-b": "AbortError: /data/ward-3/notes.jsonl is gone", "site-c": "Jane Doe, 12.3.1950"},
    }
    assert public_event(event) == event | {"seconds": 1.235, "lost": {"site-b": "AbortError", "site-c": "other"}}


def test_losses_counts_weights_and_scores_are_left_out():
    event = {"event": "train", "site": "site-a", "round": 0, "step": 3, "steps": 17, "loss": 0.7}
    assert public_event(event) == {"event": "train", "site": "site-a", "round": 0, "left_out": 3}
    assert public_event({"event": "round", "weights": {"site-a": 9}}) == {"event": "round", "left_out": 1}
    assert public_event({"event": "scored", "f1": {"test": 0.5}}) == {"event": "scored", "left_out": 1}


def test_a_field_of_another_kind_is_left_out():
    event = {"event": "asking\n", "round": "first", "exchange": "a b", "adapter": "xyz", "seconds": float("nan")}
    assert public_event(event) == {"event": "other", "left_out": 4}
    assert public_event({"event": "exchange", "round": True, "bytes_up": {"a": b"packet", "b": 1}}) == {
        "event": "exchange",
        "bytes_up": {"b": 1},
        "left_out": 1,
    }


def test_text_is_one_line_without_paths_and_keys():
    for path in ("/srv/notes.jsonl", "~/notes", r"C:\notes\ward.txt", "notes/ward.jsonl", "../state", "'/srv/x'"):
        assert "[path]" in public_text(f"cannot read {path}: gone"), path
        assert "notes" not in public_text(f"cannot read {path}: gone")
    assert public_text("key " + "ab" * 32) == "key [left out]"
    assert public_text("2 sites and/or more at 4 Mbit/s") == "2 sites and/or more at 4 Mbit/s"
    assert len(public_text("a b " * 500)) == 240
    assert public_text("a\nb\x1b") == "a b"


def test_only_our_own_error_classes_are_named():
    assert error_class("TransportError: no answer") == "TransportError"
    assert error_class("JaneDoeError: 1950") == "other"
    assert error_class("") == "other"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["event", "round", "site", "sites", "lost", "bytes_up", "reason", "seconds", "survivors"])


@given(st.dictionaries(keys | st.text(), values))
def test_whatever_comes_gives_one_line_of_json(event):
    line = json.dumps(public_event(event))
    assert "\n" not in line
    assert json.loads(line)["event"]
