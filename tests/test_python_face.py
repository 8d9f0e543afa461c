"""The functions of ``vlae`` itself: their documented examples are executed, and importing them costs nothing."""

import doctest
import subprocess
import sys

import pytest

import vlae
import vlae.report.runs  # which must not replace vlae.report


def mistakes(name: str) -> str:
    """The places where the example of this function does not print what it says."""
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(vlae, name), name, vlae)
    assert test.examples
    found = []
    doctest.DocTestRunner().run(test, out=found.append)
    return "".join(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the one run that the example of ``vlae.run`` makes."""
    place = tmp_path_factory.mktemp("face")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert not mistakes("run")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*vlae.__all__} - {"run"}))
def test_the_documented_example_is_true(name, place, monkeypatch):
    monkeypatch.chdir(place)
    assert not mistakes(name)


def test_an_unknown_format_is_one_line(place):
    with pytest.raises(vlae.errors.UserError, match=r"^format: expected one of markdown, .*, got 'word'$"):
        vlae.table("vae", place / "runs", format="word")


def test_importing_vlae_imports_no_library():
    code = (
        "import sys, vlae; print([n for n in ('torch', 'hydra', 'pandas', 'matplotlib') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
