"""The package, installed from a checkout as `pip install -e .` and `pip install .` install it."""

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
        "from vlae import config\n"
        "from importlib.metadata import entry_points\n"
        "command, = entry_points(group='console_scripts', name='vlae')\n"
        "print(vlae.run.__module__, vlae.__file__, command.load().__name__, config.compose([])['seed'])"
    )
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [environment / "bin" / "python", script], cwd=clone.parent, env=alone, capture_output=True, text=True
    )
    assert done.stdout.split() == ["vlae", str(clone / "vlae" / "__init__.py"), "main", "0"], done.stderr


def test_an_installed_copy_holds_all_that_reports_need(clone, tmp_path):
    with built(clone, "wheel", tmp_path) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("vlae/")}
    there = {
        path for path in (ROOT / "vlae").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == {path.relative_to(ROOT).as_posix() for path in there}
    assert any("report/page/files" in name for name in names)
