"""One site of a plan as something that answers: its notes, its model and its agent, whatever process it is in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fedsec.data.schema import Example
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.plan.sitefile import Site
from fedsec.plan.toml import read_toml
from fedsec.site.agent import SiteAgent
from fedsec.site.identity import Progress
from fedsec.site.work import LocalWork
from fedsec.study.corpora import PublicSets, load_held_out, load_public, load_training, require_units
from fedsec.study.sites import authorise_site, open_agent
from fedsec.training.base_model import load_base
from fedsec.training.private.mates import require_alone
from fedsec.training.replicas import Replicas


def open_one_site(site: Site, plan: Plan, public: Path | None, progress: Progress, stack: ExitStack) -> SiteAgent:
    """The agent of a site that is alone on its machine. What does not hold is refused before the model is loaded.

    Args:
        site: its site.toml.
        plan: what it is to take part in; its officers have approved it.
        public: the folder of the plan's public sets; None for the one that the site.toml names.
        progress: hears of steps and counts; what it raises during training ends the answer.
        stack: closes record and ledger.

    Raises:
        FedsecError: anything is missing or does not hold: approval, policy, keys, record, ledger, model, notes, or a
            public set is not the one that the plan pins.
    """
    authorise_site(site, plan, read_toml(site.policy_path, Policy))
    require_units(site.file, plan)
    progress({"event": "loading", "what": f"base model {plan.model.base}"})
    models = Replicas(load_base(plan.model))
    require_alone(models.base, plan)
    progress({"event": "loading", "what": "notes"})
    sets = load_public(plan, site.public_path if public is None else public)
    work = local_work(site, plan, models, load_training(site, plan), sets, progress)
    agent = open_agent(site, plan, work, stack)
    agent.progress = progress
    return agent


def local_work(
    site: Site, plan: Plan, models: Replicas, training: Sequence[Example], public: PublicSets, step: Progress
) -> LocalWork:
    """What the site does with its notes. ``step`` hears of every step of training, and may stop it there."""
    data = (training, public.tests, public.validation, load_held_out(site, plan))
    return LocalWork(site.name, plan, models, *data, step)
