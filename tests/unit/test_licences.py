"""The licences of what an install brings in: each on the allow-list, or the dependency is not taken."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from license_expression import get_spdx_licensing

LOCKS = Path(__file__).resolve().parents[2] / "requirements"
SPDX = get_spdx_licensing()
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("CNRI-Python", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
# What older metadata says in place of an SPDX expression.
SPDX_OF = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def stated_licence(row: dict[str, str]) -> str:
    """Return what a package's metadata states, as SPDX: the expression, else the classifiers, else the free text."""
    for field in ("License-Expression", "License-Classifier", "License-Metadata"):
        value = row[field].strip()
        if value and value != "UNKNOWN":
            return " AND ".join(SPDX_OF.get(part.strip(), part.strip()) for part in value.split(";"))
    return ""


def is_allowed(expression: str) -> bool:
    """Tell whether an SPDX expression can be met with allowed licences only: any side of OR, every side of AND."""
    if not expression or SPDX.validate(expression).errors:
        return False

    def holds(node: object) -> bool:
        parts = getattr(node, "args", ())
        if not parts or str(node) in ALLOWED:
            return str(node) in ALLOWED
        return (any if node.operator.strip() == "OR" else all)(map(holds, parts))  # type: ignore[attr-defined]

    return holds(SPDX.parse(expression))


def locked_names(*locks: str) -> list[str]:
    """List the packages that the lock files pin."""
    return [
        name for lock in locks for name in re.findall(r"^([a-z0-9._-]+)==", (LOCKS / lock).read_text(), re.MULTILINE)
    ]


def stated_licences(names: list[str]) -> dict[str, str]:
    """Map each of the packages that is installed here to the licence it states."""
    command = [
        sys.executable,
        "-m",
        "piplicenses",
        "--from=all",
        "--format=json",
        "--with-system",
        "--packages",
        *names,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["Name"].lower(): stated_licence(row) for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "locks",
    [("runtime.txt", "model.txt"), ("nvflare.txt",), ("build.txt", "test.txt", "paper.txt")],
    ids=["runtime", "engine", "tools"],
)
def test_every_dependency_has_an_allowed_licence(locks: tuple[str, ...]) -> None:
    licences = stated_licences(locked_names(*locks))
    assert len(licences) >= 15
    assert {name: said for name, said in licences.items() if not is_allowed(said)} == {}


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-or-later", False),
        ("GPL-3.0-or-later OR MIT", True),
        ("GPL-3.0-or-later AND MIT", False),
        ("Apache-2.0 WITH LLVM-exception AND BSD-3-Clause", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("Some licence of our own", False),
        ("", False),
    ],
)
def test_expressions_are_judged_by_their_logic(expression: str, allowed: bool) -> None:
    assert is_allowed(expression) is allowed
