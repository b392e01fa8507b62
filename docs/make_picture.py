"""Draw a finished run's tables as the terminal shows them: ``python docs/make_picture.py RUN docs/demo.svg``."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from fedsec.cli.tables import show_results
from fedsec.study.folder import RunFolder

_COLUMNS = 100
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FONT = "Fira Code"
_FONTS = "DejaVu Sans Mono, Liberation Mono, Menlo, Consolas, monospace"


def picture(run: Path) -> str:
    """The SVG. It fetches no font: whoever opens the page sees it with the fonts that are there."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    show_results(console, RunFolder.open(run).results())
    drawn = console.export_svg(title=f"fedsec demo --seed {RunFolder.open(run).plan.seed}")
    return _WEB_FONT.sub("", drawn).replace(_FONT, _FONTS)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(Path(sys.argv[1])), encoding="utf-8")
