"""JSON Schemas of the signed documents, as `docs/schema/` has them: what a stranger's tool reads them by.

    python -m tests.schemas        # writes the files

The schemas describe; what decides is the strict parser and the canonical form (RFC 8785).
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from fedsec.plan.approval import Approval
from fedsec.plan.attestation import Attestation
from fedsec.plan.model import Plan
from fedsec.plan.policy import Policy
from fedsec.study.certificate import Statement
from fedsec.study.manifest import Manifest

FOLDER = Path(__file__).parents[1] / "docs" / "schema"
DOCUMENTS: dict[str, type[BaseModel]] = {
    "approval": Approval,
    "attestation": Attestation,
    "certificate": Statement,
    "manifest": Manifest,
    "plan": Plan,
    "policy": Policy,
}


def schema(name: str) -> str:
    """The document's JSON Schema (2020-12) as text."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(about | DOCUMENTS[name].model_json_schema(by_alias=True), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in DOCUMENTS:
        (FOLDER / f"{name}.json").write_text(schema(name), encoding="utf-8")
