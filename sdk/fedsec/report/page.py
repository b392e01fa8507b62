"""The page: what was gathered, put into the template. One file, nothing fetched, the same bytes for the same run."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedsec.plan.statement import count_in_words
from fedsec.privacy.shown import shown_epsilon
from fedsec.report import figures, words
from fedsec.report.data import ReportData, gather
from fedsec.study.folder import RunFolder
from fedsec_secure.numeric.score_levels import STEPS_PER_NAT, WORST_LEVEL
from fedsec_secure.weighting.groups import STEPS

_VERDICTS = {"no": "No", "part": "In part", "yes": "Yes", "known": "Known"}


def render(folder: RunFolder) -> str:
    """The HTML of a run's report. FedsecError where the folder holds what its authors did not sign."""
    return page(gather(folder))


def page(data: ReportData) -> str:
    """The HTML of what was gathered."""
    environment = Environment(
        loader=PackageLoader("fedsec.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"size": words.size, "duration": words.duration, "sites": ", ".join, "signed": words.signed}
    environment.filters |= {"epsilon": shown_epsilon, "unbroken": words.unbroken}
    environment.filters |= {"in_words": count_in_words}
    about_protection, about_rest = words.split(data.statements)
    return environment.get_template("page.html.j2").render(
        data=data,
        plan=data.plan,
        certified=data.certified,
        summary=words.summary(data),
        in_sums=words.in_sums(data),
        sums_apart=data.plan.dp.mode == "none" and data.plan.secure.mode != "none",
        verdicts=_VERDICTS,
        about_protection=about_protection,
        about_rest=about_rest,
        settings=words.settings(data.plan),
        attested=any(budget.attested for budget in data.budgets),
        validation=words.validation(data.plan),
        worst=WORST_LEVEL // STEPS_PER_NAT,
        steps=", ".join(f"{float(step):g}" for step in STEPS),
        budget_left=words.budget_left(data),
        counted=words.counted(data.plan),
        refused=words.refused(data),
        results=[(kind, words.fairness(kind), words.gained(kind)) for kind in data.kinds],
        weakest=next((row for kind in data.kinds[:1] for row in kind.fair if row.weakest), None),
        figures=_figures(data),
    )


def _figures(data: ReportData) -> dict[str, Markup]:
    drawn = {"budget": figures.budget_bar(data)} if any(b.attested for b in data.budgets) else {}
    if data.exposures.rows:
        drawn["exposure"] = figures.exposure(data.exposures)
    drawn |= {f"fairness-{kind.kind}": figures.fairness(kind) for kind in data.kinds}
    drawn |= {f"learning-{kind}": figures.learning(kind, curve) for kind, curve in data.curves.items()}
    if data.rounds:
        drawn["traffic"] = figures.traffic(data.rounds)
    return drawn
