"""README and docs name files that exist, and README stays one page."""

import re
from pathlib import Path

import pytest
from conftest import make_images, make_model, noise

from vlae.data import datasets
from vlae.models.vae import VAE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# decisions may name files that are gone
GUIDES = [page for page in PAGES if page.parent.name != "decisions"]
FOLDERS = "vlae|conf|docs|sweeps|tests|simulation|benchmarks"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w(?![\w/*<>{{-])")
EXAMPLES = {"vlae/models/spherical.py", "conf/model/spherical.yaml", "conf/dataset/stripes.yaml"}
"""Files that a reader creates by following the docs."""


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_file_tree_of_the_readme_exists():
    tree = re.search(r"## Where things are\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    folder = ROOT
    for line in tree[1].splitlines():
        names, comment = line[:29], line[29:]  # two columns
        top = not line.startswith(" ")
        for name in names.split():
            assert ((ROOT if top else folder) / name).exists(), line
        if top:
            folder = ROOT / names.split()[0]
        for name in re.findall(r"\w+\.(?:py|md)\b", comment):
            assert list(ROOT.glob(f"vlae/**/{name}")) or (ROOT / "docs" / name).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    words = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())
    paths = {path for word in words for path in PATH.findall(word)}
    assert [path for path in sorted(paths - EXAMPLES) if not (ROOT / path).exists()] == []


def test_the_examples_of_own_code_work():
    text = (ROOT / "docs" / "own-models-and-data.md").read_text()
    model_code, dataset_code, proposal_code, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    own, x = {"__name__": "own"}, make_images("gaussian")
    exec(model_code, own)
    spherical = make_model(own["Spherical"], "gaussian").posterior(x, noise())
    assert spherical.log_variance.std(-1).max() == 0
    added = dict(vars(datasets))  # it is a function of that file
    exec(dataset_code, added)
    splits = added["stripes"]()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (900, 100, 200)
    exec(proposal_code, own)
    model = make_model(VAE, "gaussian")
    proposal, modes = own["propose"](model, x, model.posterior(x, noise()))
    assert proposal.degrees == 3
    assert modes.z.shape == proposal.mu.shape
