"""Three invented hospitals and a coordinator, each in a folder of its own: keys, notes, policies, an approved plan."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from fedsec.plan.coordinatorfile import load_coordinator
from fedsec.plan.sitefile import load_sites
from fedsec.plan.specs import EvaluationSpec
from fedsec.spool import private_folder
from fedsec.study.demo import demo_draft, write_demo
from fedsec.study.prepare import initialise


def make_hospitals(folder: Path) -> Path:
    """FOLDER/NAME/site.toml, FOLDER/coordinator/coordinator.toml and the plan that is returned.

    The model is tiny and of random weights: it learns nothing, in seconds. All keys are made here, the officers' too;
    in earnest each is made on its owner's machine, and an approval reaches the coordinator by mail.
    """
    draft = demo_draft(seed=1, base="tiny-random", sentences=8, rounds=2, sites=3)
    write_demo(folder, draft, sentences=8, test_sentences=1)
    unscored = draft.model_copy(update={"evaluation": EvaluationSpec()})
    initialise(unscored, folder, folder, datetime.datetime.now(datetime.UTC))
    received = private_folder(load_coordinator(folder / "coordinator" / "coordinator.toml").approvals_path)
    for name, site in load_sites(folder).items():
        shutil.copy(site.approval_path, received / f"{name}.json")
    return folder / "coordinator" / "plan.json"
