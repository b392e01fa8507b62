"""What a plan may ask of a strategy: ranks of sites, measurements that say nothing, pulls that do nothing."""

import pytest

from fedsec.plan.document import compile_plan, parse_canonical
from fedsec.plan.explain import explain
from fedsec.plan.model import Draft, Plan
from fedsec.plan.specs import CanarySpec, DpSpec, EvaluationSpec, LoraSpec, ModelSpec, ServerSpec, TrainingSpec
from fedsec.plan.toml import override, write_toml

DISTRIBUTED = DpSpec(mode="distributed", target_epsilon=8.0)
EXACT = ModelSpec(base="tiny-random", weights_sha256="ab" * 32, dtype="float32")


def draft(world, **changes) -> Draft:
    return Draft(**{**dict(world.draft), **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lora": LoraSpec(rank=4, site_ranks={"ash": 5})}, "ash has rank 5, above lora.rank 4"),
        ({"lora": LoraSpec(strategy="fed-sb", site_ranks={"ash": 4})}, "would train a quarter"),
        ({"lora": LoraSpec(strategy="fedsa", site_ranks={"ash": 4})}, "columns that it never trains"),
        ({"lora": LoraSpec(site_ranks={"ash": 4}), "dp": DISTRIBUTED}, "to every coordinate"),
        ({"training": TrainingSpec(proximal_mu=0.1), "dp": DISTRIBUTED}, "one step from the shared adapter"),
        ({"lora": LoraSpec(strategy="fedsa"), "canaries": CanarySpec(per_site=2)}, "exposure is measured"),
        (
            {"lora": LoraSpec(strategy="fedsa"), "evaluation": EvaluationSpec(round_test_limit=3)},
            "answers as the base model does",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(world, changes, why):
    with pytest.raises(ValueError, match=why):
        draft(world, model=EXACT, **changes)


@pytest.mark.parametrize("field", ["learning_rate", "beta1", "beta2", "tau"])
def test_what_would_be_ignored_is_refused(field):
    with pytest.raises(ValueError, match=f'{field} is set, but optimiser is "average"'):
        ServerSpec(**{field: 0.5})
    assert getattr(ServerSpec(optimiser="adam", **{field: 0.5}), field) == 0.5


def test_ranks_are_of_sites_of_the_roster(world):
    of = draft(world, lora=LoraSpec(site_ranks={"ash": 4, "elm": 8}))
    plan = compile_plan(of, world.roster)
    assert parse_canonical(plan.canonical(), Plan, "plan.json") == plan
    assert plan.digest() != world.plan().digest()
    with pytest.raises(ValueError, match="names oak, which is not in the roster"):
        Plan(**{**dict(plan), "lora": LoraSpec(site_ranks={"oak": 4})})


def test_a_draft_with_ranks_goes_through_toml(world, tmp_path):
    from fedsec.plan.toml import read_toml

    of = draft(world, lora=LoraSpec(site_ranks={"ash": 4}), server=ServerSpec(optimiser="adam"))
    path = tmp_path / "plan.toml"
    path.write_text(write_toml(of, "a plan"))
    assert read_toml(path, Draft) == of
    changed = override(world.draft, ["lora.site_ranks={ash = 4}", 'server.optimiser="adam"'])
    assert (changed.lora.site_ranks, changed.server.optimiser) == ({"ash": 4}, "adam")


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("fedit", "share the updates of both"),
        ("ffa", "train and share factor B"),
        ("rolora", "B of the adapter in the first round, A in the second"),
        ("fedsa", "share the updates of A only"),
        ("fedsvd", "new factors of the same product"),
        ("fed-sb", "one small square matrix a layer"),
    ],
)
def test_the_officer_reads_what_is_shared(world, strategy, words):
    of = draft(world, lora=LoraSpec(strategy=strategy))
    texts = [s.text for s in explain(of, 5) if s.topic == "adapter"]
    assert words in texts[0]
    assert any("answers as the base model does" in text for text in texts) == (strategy == "fedsa")


def test_the_officer_reads_of_ranks_and_of_the_server_s_optimiser(world):
    of = draft(world, lora=LoraSpec(site_ranks={"ash": 4}), server=ServerSpec(optimiser="adam"))
    texts = " ".join(s.text for s in explain(of, 5) if s.topic == "adapter")
    assert "some sites train less (ash 4)" in texts
    assert "FedAdam, step 0.001" in texts
