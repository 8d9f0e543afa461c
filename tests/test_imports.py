"""The laws of imports that import-linter has no contract for."""

import grimp
import pytest

MOST = 8
"""Modules of the package that one module may import: one that needs more does more than one thing."""


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("vlae", exclude_type_checking_imports=True, cache_dir=None)


def test_a_module_imports_few_others(graph):
    many = {
        module: sorted(imported)
        for module in graph.modules
        if not module.startswith("vlae.cli")
        and len(imported := graph.find_modules_directly_imported_by(module)) > MOST
    }
    assert not many
