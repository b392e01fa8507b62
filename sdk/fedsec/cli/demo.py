"""`fedsec demo`: five sites, a real language model, real scores, on a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Jobs, Json, Quiet, err
from fedsec.cli.run import finish_study

# Many short rounds: averaging often costs little and pulls five unlike sites together far better than averaging twice,
# for the same number of steps.
_SENTENCES, _ROUNDS, _TEST_SENTENCES = 80, 10, 20


def demo(
    output: Annotated[Path, typer.Option("--out", help="The run folder, new or empty.")] = Path("fedsec-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the notes, the first adapter and the order.")] = 1,
    base: Annotated[
        str, typer.Option(help="Base model; tiny-random makes it a smoke test of seconds.")
    ] = "smollm2-135m",
    sentences: Annotated[int, typer.Option(min=2, help="Training sentences a site.")] = _SENTENCES,
    test_sentences: Annotated[int, typer.Option(min=1, help="Test sentences a site.")] = _TEST_SENTENCES,
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds.")] = _ROUNDS,
    run_id: Annotated[str | None, typer.Option(help="Name of the run, [a-z0-9-]; made up if left out.")] = None,
    jobs: Jobs = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Five invented hospitals with unlike notes and annotations fine-tune one adapter under masked secure aggregation.

    Keys, notes, policies and approvals are made on the spot, by generated officers, into OUT-sites/.
    """
    import datetime

    from fedsec.data.synthetic import STYLES
    from fedsec.study.demo import demo_draft, write_demo
    from fedsec.study.folder import RunFolder
    from fedsec.study.prepare import approvals_of, initialise, new_run_id, require_new, working_set

    require_new(output)
    sites = working_set(output)
    draft = demo_draft(seed, base, sentences, rounds, len(STYLES))
    if not quiet and not json:
        err.print(f"writing five hospitals into {sites} (mode 0700)", style="dim")
    write_demo(sites, draft, sentences, test_sentences)
    plan = initialise(draft, sites, sites, datetime.datetime.now(datetime.UTC))
    RunFolder.create(output, run_id or new_run_id(draft.name), sites, plan, approvals_of(plan, sites))
    finish_study(output, jobs, json=json, quiet=quiet)
