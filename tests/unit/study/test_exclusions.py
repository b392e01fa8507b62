"""Which patients a site leaves out is fixed in what it signs, and nobody else can guess the list from it."""

from __future__ import annotations

import hashlib

import pytest

from fedsec.plan.sitefile import DataSection, Site, SiteFile
from fedsec.study.sites import exclusions_hmac
from fedsec_secure.errors import ConfigError
from fedsec_secure.identity.keys import SigningKey

OFFICER = SigningKey.generate().public.hex


def site(folder, text: str | None) -> Site:
    if text is not None:
        (folder / "out.txt").write_text(text, encoding="utf-8")
    data = DataSection(path="notes.jsonl", exclude_patients=None if text is None else "out.txt")
    return Site(SiteFile(name="ward", officer=OFFICER, data=data), folder)


def test_without_a_list_there_is_nothing_to_sign(tmp_path):
    assert exclusions_hmac(site(tmp_path, None), SigningKey.generate()) is None


def test_the_same_patients_in_any_order_give_the_same_value_and_others_another(tmp_path):
    key = SigningKey.generate()
    one = exclusions_hmac(site(tmp_path, "p1\np2\n"), key)
    assert exclusions_hmac(site(tmp_path, "# objected\np2\n\np1\n"), key) == one
    assert exclusions_hmac(site(tmp_path, "p1\np2\np3\n"), key) != one
    assert exclusions_hmac(site(tmp_path, ""), key) not in (None, one)


def test_who_lacks_the_key_cannot_test_a_guess(tmp_path):
    """Neither with another key nor with a plain hash."""
    guessed = site(tmp_path, "p1\n")
    value = exclusions_hmac(guessed, SigningKey.generate())
    assert exclusions_hmac(guessed, SigningKey.generate()) != value
    assert hashlib.sha256(b"p1").hexdigest() != value


def test_a_list_that_cannot_be_read_stops_the_site(tmp_path):
    missing = site(tmp_path, "p1\n")
    (tmp_path / "out.txt").unlink()
    with pytest.raises(ConfigError, match="the list of excluded patients cannot be read"):
        exclusions_hmac(missing, SigningKey.generate())
