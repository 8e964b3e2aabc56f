from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.serve import command as serve
from schemas.errors import BadInput
from serving.kernels import available, choice, choose, kernel
from serving.kernels.native import Native
from tests.serving.kernels.conftest import chosen

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _as_before():
    with chosen(choice._open("numpy")):
        yield


@pytest.mark.parametrize("name", ["numba", "numpy"])
def test_a_kernel_is_chosen_by_name(name, caplog) -> None:
    """The name decides, the log says it, and the process keeps it."""
    caplog.set_level(logging.INFO)
    assert choose(name).name == name and kernel().name == name
    assert name in caplog.text


def test_c_is_chosen_by_precision_too() -> None:
    """A name with a precision is the fastest variant of it; without one, of any; the list has them in that order."""
    names = [each.name for each in available()]
    assert names[0] == choose("c").name == choose().name and names[-2:] == ["numba", "numpy"]
    for name in ("bfloat16", "float32"):
        running = [each for each in available() if each.precision == name and each.name.startswith("c ")]
        if running:
            assert choose(f"c-{name}").name == running[0].name
        else:
            with pytest.raises(BadInput, match=f"kernel c-{name} does not run here"):
                choose(f"c-{name}")


def test_the_metrics_name_the_kernel(world) -> None:
    """A scrape says what computes scores."""
    assert b'aif_kernel_info{kernel="numpy"} 1.0' in world.metrics.text()


@pytest.mark.parametrize(("options", "env"), [(["--kernel", "fortran"], {}), ([], {"AIF_KERNEL": "fortran"})])
def test_the_server_is_told_which_by_option_or_environment(options, env) -> None:
    """`aif serve` refuses a kernel that there is not before it opens anything."""
    done = CliRunner().invoke(serve, options, env=env)
    assert isinstance(done.exception, BadInput) and "there is no kernel 'fortran'" in str(done.exception)


def test_an_unknown_kernel_is_refused_with_the_choice() -> None:
    """A misspelt name is an error that lists the names."""
    with pytest.raises(BadInput, match="c, c-bfloat16, c-float32, numba, numpy"):
        choose("fortran")


def test_without_the_library_numba_scores_and_asking_for_c_is_an_error(monkeypatch, caplog) -> None:
    """No compiler is no obstacle, but a server that was told to use C does not quietly use something else."""

    def missing(self, variant=None, precision=None) -> None:
        raise BadInput("it is not built")

    monkeypatch.setattr(Native, "__init__", missing)
    assert choose().name == "numba" and "it is not built" in caplog.text
    with pytest.raises(BadInput, match="kernel c does not run here: it is not built"):
        choose("c")


def test_a_compiler_that_fails_breaks_no_installation(tmp_path) -> None:
    """The extension is optional: building with a compiler that always fails ends well, without a library."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("serving/kernels", "schemas", "domain", "models", "streams", "producers", "cli", "serving"):
        (tmp_path / package).mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "serving" / "kernels" / "native", tmp_path / "serving" / "kernels" / "native")
    code = "from setuptools import setup; setup()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "build_ext", "--inplace"],
        cwd=tmp_path, env={"CC": "false", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stdout + done.stderr and not list(tmp_path.rglob("_native*"))
