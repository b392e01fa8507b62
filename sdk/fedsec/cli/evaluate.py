"""`fedsec evaluate`: score a finished adapter on a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsec.cli.output import Json, Quiet, err, out, print_json


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    corpus: Annotated[str, typer.Option(help="A public test set of the run, or a corpus that FEDSEC_DATA holds.")],
    split: Annotated[str, typer.Option(help="train, dev or test of a corpus.")] = "test",
    label_map: Annotated[Path | None, typer.Option(help="TOML map from the corpus's labels to the plan's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many examples.")] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="The base model without the adapter.")] = False,
    adapter: Annotated[
        Path | None, typer.Option(help="Another PEFT folder than the run's, as `fedsec site personal` writes it.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Precision, recall and F1 of entities and relations, strict (span and type) and lenient (overlap and type).

    Of titles: ROUGE-L, and the loss of the true ones.
    """
    from rich.progress import Progress

    from fedsec.site.work import score_tests
    from fedsec.study.scoring import load_test
    from fedsec.study.use import Finished

    finished = Finished.load(run, adapter)
    if finished.remark and not zero_shot:
        err.print(f"note: {finished.remark}", style="yellow", markup=False, soft_wrap=True)
    test = load_test(run, finished.plan, corpus, split, label_map, limit)
    with Progress(console=err, transient=True, disable=quiet or json) as progress:
        task = progress.add_task(f"scoring on {corpus}", total=len(test.examples))
        used = None if zero_shot else finished.adapter
        (scores,) = score_tests(
            finished.models, used, finished.plan, [test], None, lambda n, _: progress.update(task, completed=n)
        ).values()
    if json:
        value = scores.without_counts().model_dump(mode="json")
        print_json({"run": str(run), "corpus": corpus, "split": split, "zero_shot": zero_shot, **value})
        return
    from fedsec.cli.tables import score_table

    out.print(score_table(f"{corpus}/{split}: {scores.examples} examples", scores))
