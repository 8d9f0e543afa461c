"""The package, installed from a checkout as `pip install -e .` and `pip install .` install it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("vlae", "conf", "hydra_plugins", "sweeps", "launch.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture
def clone(tmp_path):
    """A folder named like the package, in a directory where a user keeps scripts."""
    place = tmp_path / "work" / "vlae"
    place.mkdir(parents=True)
    for name in FILES:
        source, ignore = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, place / name, ignore=ignore) if source.is_dir() else shutil.copy(
            source, place
        )
    return place


def built(clone, kind, wheels):
    """The files that pip would install; the build runs in a process of its own, as pip's does."""
    (backend,) = re.findall(r'^build-backend = "(.+)"$', (clone / "pyproject.toml").read_text(), re.M)
    pytest.importorskip(backend)
    code = f"import {backend} as b; b.build_{kind}({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.mark.slow
def test_a_script_beside_the_clone_uses_the_installed_package(clone, tmp_path):
    environment, wheels = tmp_path / "environment", tmp_path / "wheels"
    wheels.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    with built(clone, "editable", wheels) as wheel:
        wheel.extractall(site)
    # the libraries of this environment; its own .pth files, and so another installation of vlae, are not read
    (site / "zz_libraries.pth").write_text(sysconfig.get_path("purelib"))
    script = clone.parent / "script.py"
    script.write_text(
        "import vlae, hydra_plugins.vlae_launching.grids\n"
        "from vlae.config.compose import compose\n"
        "from importlib.metadata import entry_points\n"
        "command, = entry_points(group='console_scripts', name='vlae')\n"
        "print(vlae.run.__module__, vlae.__file__, command.load().__name__, compose([])['seed'])"
    )
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [environment / "bin" / "python", script], cwd=clone.parent, env=alone, capture_output=True, text=True
    )
    assert done.stdout.split() == ["vlae", str(clone / "vlae" / "__init__.py"), "main", "0"], done.stderr


@pytest.fixture
def installed(clone, tmp_path):
    """A wheel, installed by pip into an environment of its own that sees the libraries of this one; its programs."""
    pytest.importorskip("pip")
    environment, wheels = tmp_path / "environment", tmp_path / "wheels"
    wheels.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    built(clone, "wheel", wheels).close()
    (wheel,) = wheels.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "zz_libraries.pth").write_text(sysconfig.get_path("purelib"))
    shutil.rmtree(clone)
    return environment / "bin"


TINY = (
    *("dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]", "trainer.epochs=2", "device=cpu"),
    *("evaluate.num_samples=2", "evaluate.num_images=4", "evaluate.num_gap_images=0", "tracker=none"),
)


@pytest.mark.slow
def test_an_installed_package_needs_no_checkout(installed, tmp_path):
    place = tmp_path / "empty"
    place.mkdir()

    def command(*words):
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [installed / "vlae", *words], cwd=place, env=alone, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("launch", *TINY)
    (results,) = place.glob("runs/*/results.json")
    code = json.loads(results.read_text())["environment"]["code"]
    command("launch", "-m", "model=vae", "seed=0,1", *TINY)
    assert len(list(place.glob("runs/*/results.json"))) == 3
    (frozen,) = place.glob("runs/.code/[0-9a-f]*")
    assert code == {"hash": frozen.name, "commit": None, "changed": None}
    assert {path.name for path in frozen.iterdir()} == {"vlae", "hydra_plugins", ".commit.json"}
    assert frozen.joinpath("vlae", "conf", "config.yaml").is_file()
    assert {path.name for path in frozen.joinpath("hydra_plugins").iterdir()} == {"vlae_launching"}
    assert "would start 10" in command("launch", "sweeps=smoke", "dry_run=true")
    assert "VAE" in command("table")
    assert {path.name for path in place.iterdir()} == {"runs"}


@pytest.mark.slow
def test_a_wheel_holds_only_the_package_and_its_data(clone, tmp_path):
    with built(clone, "wheel", tmp_path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = set()
    for top, inside in (("vlae", ""), ("conf", "vlae/"), ("sweeps", "vlae/"), ("hydra_plugins", "")):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(inside + path.relative_to(ROOT).as_posix())
    assert names == expected
    assert any("report/html/files" in name for name in names)
