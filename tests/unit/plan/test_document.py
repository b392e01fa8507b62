"""Signed documents as files: replaced whole or not at all, and nothing left behind."""

import stat

import pytest

from fedsec.plan.approval import Approval
from fedsec.plan.document import MAX_DOCUMENT_BYTES, load_plan, parse_canonical, write_private
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.revocation import Revocation
from fedsec.plan.specs import Strict
from fedsec.plan.withdrawal import Withdrawal
from fedsec_secure.errors import CodecError, ConfigError


def test_write_private_replaces_whole(tmp_path):
    write_private(tmp_path / "f", b"old")
    write_private(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write_private(tmp_path / "f", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsec.plan.document.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_load_plan(tmp_path, world):
    plan = world.plan()
    (tmp_path / "plan.json").write_bytes(plan.canonical())
    assert load_plan(tmp_path / "plan.json") == plan
    with pytest.raises(ConfigError, match="cannot read the plan"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "plan.toml").write_text('name = "smoke"')
    with pytest.raises(ConfigError, match=r"plan\.toml is a draft; expected a compiled plan"):
        load_plan(tmp_path / "plan.toml")
    with pytest.raises(CodecError, match="at most"):
        parse_canonical(b" " * (MAX_DOCUMENT_BYTES + 1), Plan, "plan.json")


def test_a_number_beyond_what_json_holds_exactly_is_refused(world):
    data = world.plan().canonical().replace(b'"rounds":2', b'"rounds":' + b"9" * 40)
    assert b"9" * 40 in data
    with pytest.raises(CodecError):
        parse_canonical(data, Plan, "plan.json")


class Unbounded(Strict):
    """A document that forgot an upper bound."""

    number: int


def test_a_document_without_a_canonical_form_is_an_error_of_its_own():
    with pytest.raises(CodecError, match="no canonical form"):
        parse_canonical(b'{"number":99999999999999999999}', Unbounded, "a document")


@pytest.mark.parametrize("model", [Plan, Policy, Approval, Revocation, Withdrawal], ids=lambda m: m.__name__)
def test_every_integer_of_a_signed_document_is_bounded(model):
    """RFC 8785 has no integers beyond 2^53: each field's own bound says so first, and in words."""
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for field, value in part.get("properties", {}).items():
            for kind in (value, *value.get("anyOf", ())):
                if kind.get("type") == "integer":
                    most = kind.get("maximum", kind.get("exclusiveMaximum", kind.get("const")))
                    assert most is not None, f"{name}.{field} has no upper bound"
                    assert most <= 1 << 53
