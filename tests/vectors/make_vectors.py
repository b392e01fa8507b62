"""Write the test vectors again: ``python -m tests.vectors.make_vectors``. Where they change, the protocol does."""

from __future__ import annotations

import json
from pathlib import Path

from tests.vectors.bad import bad_messages
from tests.vectors.draws import bad_draws, draws
from tests.vectors.transcript import RINGS, transcript

HERE = Path(__file__).parent


def files() -> dict[str, str]:
    """File name -> content."""
    rounds = {ring: transcript(ring) for ring in RINGS}
    made = {f"round_{ring}.json": value for ring, value in rounds.items()}
    made["round_bad_messages.json"] = bad_messages(rounds["3x21"])
    made["draws.json"] = draws()
    refused = [{"message": m, "wrong": w, "bytes": data.hex(), "error": e} for m, w, data, e, _ in bad_draws()]
    made["draw_bad_messages.json"] = refused
    return {name: json.dumps(value, indent=1) + "\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8")
