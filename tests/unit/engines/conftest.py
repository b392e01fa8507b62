"""What tests of the link have in common."""

import pytest

from tests.links import make_desk


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def desk(tmp_path):
    return make_desk(tmp_path / "incoming")
