"""The published JSON Schemas are those of the code, and real documents fit them."""

from __future__ import annotations

import base64
import json

import jsonschema
import pytest

from tests.schemas import DOCUMENTS, FOLDER, schema
from tests.unit.cli.smoke import finished_run


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_file_is_what_the_code_says(name):
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == schema(name), "run: python -m tests.schemas"


def test_no_schema_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DOCUMENTS)


def payload(path):
    return json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))


def test_real_documents_fit_and_changed_ones_do_not():
    run = finished_run()
    documents = {
        "plan": json.loads((run / "plan.json").read_bytes()),
        "approval": payload(run / "approvals" / "clifton.json"),
        "attestation": payload(run / "attestations" / "clifton.json"),
        "certificate": payload(run / "certificate.json"),
        "manifest": payload(run / "manifest.json"),
    }
    for name, document in documents.items():
        validator = jsonschema.Draft202012Validator(json.loads(schema(name)))
        validator.validate(document)
        for changed in ({**document, "more": 1}, {k: v for k, v in document.items() if k != "format"} | {"format": 2}):
            assert not validator.is_valid(changed), name
