"""What the trusted core may import: a short list of libraries, and only the harmless part of the standard library.

The arrows between our own packages are import-linter contracts in pyproject.toml; an allow-list is not something those
can say.
"""

import sys

import grimp
import pytest

CORE_LIBRARIES = {"cryptography", "numpy", "pydantic", "pydantic_core", "rfc8785", "securesystemslib"}
# Libraries that one package alone of the core may use.
ONLY_IN = {"tenseal": "fedsec_secure.he", "zstandard": "fedsec_secure.he"}
CORE_MAY_NOT = {
    *("asyncio", "ctypes", "datetime", "http", "marshal", "multiprocessing", "pickle", "random", "select", "selectors"),
    *("shelve", "socket", "socketserver", "ssl", "subprocess", "time", "urllib"),
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("fedsec", "fedsec_secure", include_external_packages=True, cache_dir=None)


def external_imports(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """List (module of the core, top-level package outside it) for every direct import."""
    core = {module for module in graph.modules if module.split(".")[0] == "fedsec_secure"}
    pairs = {
        (module, name.split(".")[0]) for module in core for name in graph.find_modules_directly_imported_by(module)
    }
    return {(module, name) for module, name in pairs if name != "fedsec_secure"}


def test_the_core_imports_only_the_libraries_on_its_list(graph: grimp.ImportGraph) -> None:
    imports = external_imports(graph)
    assert ("fedsec_secure.identity.keys", "cryptography") in imports
    allowed = CORE_LIBRARIES | set(ONLY_IN) | (set(sys.stdlib_module_names) - CORE_MAY_NOT)
    assert {pair for pair in imports if pair[1] not in allowed} == set()


def test_heavy_libraries_stay_in_their_package(graph: grimp.ImportGraph) -> None:
    strays = {
        (module, name)
        for module, name in external_imports(graph)
        if name in ONLY_IN and module != ONLY_IN[name] and not module.startswith(ONLY_IN[name] + ".")
    }
    assert strays == set()
