"""What the page says of exposures: by chance it accuses an adapter in one of 100 runs, however many sites there are."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from fedsec.plan.attestation import Exposed
from fedsec.plan.specs import CanarySpec
from fedsec.report.exposure import exposures

CANARIES = CanarySpec(per_site=8, candidates=127)


def page(bits, bound=None, away=()):
    """Of sites with these exposures, and others in the roster that attest nothing."""
    said = {
        f"site-{number:02}": SimpleNamespace(
            site=f"site-{number:02}",
            canaries=Exposed(candidates=127, bits=tuple(own)),
            floors=SimpleNamespace(max_exposure=bound),
        )
        for number, own in enumerate(bits)
    }
    roster = SimpleNamespace(sites=dict.fromkeys((*said, *away)))
    return exposures(SimpleNamespace(canaries=CANARIES, roster=roster), said)


@pytest.mark.parametrize("sites", [1, 5, 20])
def test_an_adapter_that_remembers_nothing_is_seldom_said_to_remember(sites):
    runs = 2000
    ranks = np.random.default_rng(1).integers(1, 129, (runs, sites, 8))
    told = [page(7 - np.log2(one)).sentences[1] for one in ranks]
    accused = sum("remembers single records" in sentence for sentence in told) / runs
    assert accused < 0.01 + 4 * math.sqrt(0.01 / runs)
    assert all(("No site's" in sentence) != ("remembers" in sentence) for sentence in told)


def test_one_that_remembers_is_named_with_its_sites():
    found = page([(1.0,) * 8, (5.0,) * 8, (7.0,) * 8], bound=6.0)
    assert "More than chance explains at site-01, site-02" in found.sentences[1]
    assert [reason.split()[0] for reason in found.blocked] == ["site-02"]


def test_a_site_that_attests_nothing_is_named_too():
    """A coordinator can do without the measurement of a site that is not in the last sum."""
    found = page([(1.0,) * 8, (2.0,) * 8], away=("site-98", "site-97"))
    assert found.sentences[-1].startswith("Nothing is known of the canaries of site-97, site-98")
    assert not any("Nothing is known" in sentence for sentence in page([(1.0,) * 8]).sentences)
