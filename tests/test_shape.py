"""The repository keeps its shape: import direction, file sizes, names, docstrings, a test beside each contract."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LISTED: list[str] = PROJECT["tool"]["setuptools"]["packages"]
PACKAGES = [name for name in LISTED if "." not in name]
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: The packages of ours that a package may import, besides itself.
MAY_IMPORT = {
    "schemas": set(),
    "domain": {"schemas"},
    "models": {"schemas", "domain"},
    "serving": {"schemas", "domain"},
    "producers": {"schemas", "domain"},
    "streams": {"schemas", "domain", "models"},
    "cli": set(PACKAGES),
}
#: Heavy libraries, and the only packages that may load them.
HEAVY = {"torch": {"models", "streams", "cli"}, "faust": {"streams", "cli"}, "mode": {"streams", "cli"}}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc", "core"}

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree(path: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path.read_text())


def package_of(path: Path) -> str:
    """The top-level package of a module."""
    return path.relative_to(ROOT).parts[0]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every import of a module: its top-level name, and whether it stands inside a function."""
    inside = {
        id(node)
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield (node.module or "").partition(".")[0], id(node) in inside


def test_every_package_has_a_rule() -> None:
    """A new package needs its place in the order of imports; every package is there."""
    assert set(MAY_IMPORT) == set(PACKAGES)
    assert {package_of(path) for path in MODULES} == set(PACKAGES)


def test_every_folder_of_modules_is_installed() -> None:
    """Packaging lists each folder that holds modules: none is missing from an installation."""
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES} == set(LISTED)


@every_module
def test_imports_point_one_way(path) -> None:
    """A module imports of ours only what its package may, so streams and serving never meet."""
    package = package_of(path)
    ours = {name for name, _ in imports(path) if name in PACKAGES}
    assert ours <= MAY_IMPORT[package] | {package}


@every_module
def test_heavy_libraries_stay_where_they_belong(path) -> None:
    """torch and faust are named only where they may be loaded: never in serving."""
    for name, _ in imports(path):
        assert package_of(path) in HEAVY.get(name, {package_of(path)}), name


@every_module
def test_no_import_of_ours_hides_in_a_function(path) -> None:
    """Imports of our own packages stand at the top, except in commands, which load only what they run."""
    hidden = {name for name, inside in imports(path) if inside and name in PACKAGES}
    assert not hidden or package_of(path) == "cli"


@every_module
def test_a_module_is_documented_named_and_small(path) -> None:
    """Every module says what it owns, in 400 lines at most, under a name that means something."""
    assert ast.get_docstring(tree(path)), "no module docstring"
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in FORBIDDEN_NAMES
    assert path.parent.name not in FORBIDDEN_NAMES


@every_module
def test_exports_exist(path) -> None:
    """Every name in `__all__` is defined in the module."""
    names = [
        ast.literal_eval(node.value)
        for node in tree(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = {
        name
        for node in ast.walk(tree(path))
        for name in (
            [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else
            [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else
            [alias.asname or alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    for exported in names:
        assert set(exported) <= defined
        assert len(exported) == len(set(exported))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if package_of(path) in ("schemas", "domain") and path.stem != "__init__"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_contracts_and_logic_have_their_test(path) -> None:
    """Each module of schemas and domain has the test file that mirrors it."""
    mirror = ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
    assert mirror.is_file(), f"expected {mirror.relative_to(ROOT)}"


def test_tests_are_no_package() -> None:
    """No `__init__.py` below tests: it would shadow the packages that tests mirror."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_import_names_are_ours_alone(package) -> None:
    """No other installed distribution provides a package of this name."""
    assert set(packages_distributions().get(package, [PROJECT["project"]["name"]])) == {PROJECT["project"]["name"]}


def test_serving_runs_without_torch_and_faust() -> None:
    """Importing every module of serving, and all that it imports, loads none of the heavy libraries."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if package_of(path) == "serving"
    ]
    code = (
        f"import sys, importlib\n[importlib.import_module(name) for name in {names}]\n"
        f"print(sorted({set(HEAVY) | {'models', 'streams'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
