"""`fedsec budget epsilon`: the arithmetic by hand, and arguments that make none."""

import pytest

COST = ("budget", "epsilon", "--sampling-rate", "0.01", "--steps", "1000", "--delta", "1e-5")


def test_what_steps_cost(fedsec):
    found = fedsec(*COST, "--noise-multiplier", "1.0", "--json")
    assert found.code == 0
    assert found.json["epsilon"] == pytest.approx(1.828, abs=0.01)
    assert found.json["rdp"] == pytest.approx(2.101, abs=0.01)
    assert found.json["epsilon"] < found.json["rdp"] < found.json["filter"]
    assert found.json["neighbours"] == "add-or-remove"
    replaced = fedsec(*COST, "--noise-multiplier", "1.0", "--neighbours", "replace-one", "--json").json
    assert replaced["neighbours"] == "replace-one"
    assert replaced["epsilon"] == pytest.approx(2.84, abs=0.01)


def test_the_table_has_both_relations(fedsec):
    page = fedsec(*COST, "--noise-multiplier", "1.0").out
    for part in ("add-or-remove", "replace-one", "best Rényi order", "sampling rate 0.01"):
        assert part in page
    for part in ("1.829", "2.102", "2.549", "2.844", "3.112", "3.545"):
        assert part in page, "as docs/privacy.md has them, rounded up"
    assert max(len(line) for line in page.splitlines()) <= 100


def test_the_noise_that_a_target_takes(fedsec):
    found = fedsec(*COST, "--target", "2", "--json").json
    assert found["epsilon"] <= found["filter"] <= 2
    assert found["target"] == 2
    less = str(found["noise_multiplier"] - 0.001)
    assert fedsec(*COST, "--noise-multiplier", less, "--json").json["filter"] > 2
    assert "smallest noise multiplier" in fedsec(*COST, "--target", "2").out


def test_noise_is_printed_with_all_its_digits(fedsec):
    """Six of them are 2896.3, which misses the target."""
    asked = ("budget", "epsilon", "--sampling-rate", "1", "--steps", "20000", "--delta", "1e-5", "--target", "0.2")
    noise, page = fedsec(*asked, "--json").json["noise_multiplier"], " ".join(fedsec(*asked).out.split())
    assert noise > 1000
    assert f"noise multiplier {noise}, δ" in page
    assert f"{noise} is the smallest noise multiplier, to 3 decimals, whose filter stays within 0.2" in page


def test_no_bound_is_not_a_release_without_privacy(fedsec):
    """Five records of a patient at an epsilon above 30: nothing is known of replacing a patient, and noise is added."""
    much = ("budget", "epsilon", "--sampling-rate", "0.5", "--steps", "40", "--delta", "1e-5", "--records", "5")
    noise = ("--noise-multiplier", "1.5")
    page = fedsec(*much, *noise).out
    (row,) = [line for line in page.splitlines() if line.startswith("│ replace-one")]
    assert "no bound" in row
    assert "Noise is added all the same." in page
    assert not {"∞", "infinity", "inf"} & set(page.split())
    found = fedsec(*much, *noise, "--neighbours", "replace-one", "--json").json
    assert found["epsilon"] == "no bound"
    assert isinstance(fedsec(*much, *noise, "--json").json["epsilon"], float)
    assert "no bound" not in fedsec(*COST, *noise).out.lower()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "found neither"),
        (("--noise-multiplier", "1", "--target", "2"), "found both"),
        (("--noise-multiplier", "0"), "expected a noise multiplier"),
        (("--noise-multiplier", "nan"), "expected a noise multiplier"),
        (("--noise-multiplier", "1", "--neighbours", "swap"), "expected add-or-remove or replace-one"),
        (("--noise-multiplier", "1", "--delta", "0"), "expected a delta"),
        (("--noise-multiplier", "1", "--sampling-rate", "1.5"), "expected a sampling rate"),
        (("--noise-multiplier", "1", "--steps", "0"), "expected a number of steps"),
        (("--target", "-1"), "expected a finite epsilon"),
        (("--target", "1", "--steps", "many"), "Invalid value for '--steps'"),
    ],
)
def test_what_makes_no_sense_is_named(fedsec, options, message):
    found = fedsec(*COST, *options)
    assert found.code == 2
    assert message in " ".join(found.err.replace("│", " ").split())
    assert found.out == ""
