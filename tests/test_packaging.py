"""What is declared is what is used: dependencies and bounds, conda environment, files, commands."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["project"]["optional-dependencies"].items()
}
PACKAGES = ("geomap", "train", "tiles")

# Names that differ on conda-forge; None is what conda-forge lacks, which the last line (pip: -e .) installs.
CONDA_NAMES = {
    "torch": "pytorch", "matplotlib": "matplotlib-base", "prometheus-client": "prometheus_client",
    "titiler-core": None, "starlette-compress": None,
}  # fmt: skip
# Installed for what imports them: timm imports torchvision.
NOT_IMPORTED = {"torchvision"}
# Several distributions share these namespaces: they are told apart by the name below.
SHARED_NAMESPACES = {"odc": {"geo": "odc-geo"}, "titiler": {"core": "titiler-core"}}
# pystac brings its extensions as distributions of their own; distributed comes with dask[distributed].
OWNERS = {"pystac": "pystac", "distributed": "dask"}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def sources(*folders: str) -> list[Path]:
    return sorted(chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders))


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def distributions(modules: set[str]) -> dict[str, str]:
    """Distribution of every third-party module, by module."""
    known = packages_distributions()
    owners = {}
    for module in modules:
        top, *rest = module.split(".")
        if top in sys.stdlib_module_names or top in PACKAGES:
            continue
        if top in SHARED_NAMESPACES:
            owner = SHARED_NAMESPACES[top].get(rest[0] if rest else "", None)
        else:
            owner = OWNERS.get(top) or (canonicalize_name(known[top][0]) if top in known else top)
        if owner is not None:
            owners[module] = owner
    return owners


def test_conda_environment_has_the_same_packages_and_bounds():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    *packages, last = environment["dependencies"]
    assert last == {"pip": ["-e ."]}
    conda = {Requirement(line).name: Requirement(line).specifier for line in packages}
    assert conda.pop("pip") == ""
    assert conda.pop("python") == PROJECT["project"]["requires-python"]
    expected = {}
    for requirement in CORE:
        name = CONDA_NAMES.get(canonicalize_name(requirement.name), requirement.name)
        if name is not None:
            expected[name] = requirement.specifier
    assert conda == expected


def test_every_dependency_has_a_lower_bound_and_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in chain(CORE, *EXTRAS.values()):
        assert any(clause.operator == ">=" for clause in requirement.specifier), requirement
        line = next(line for line in text.splitlines() if line.strip().startswith(f'"{requirement.name}'))
        assert re.search(r'",  # \w.{8,}', line), f"no reason beside {requirement.name}"


def test_torch_and_torchvision_are_bounded_together():
    bounds = {requirement.name: str(requirement.specifier) for requirement in CORE}
    torch = re.fullmatch(r"<2\.(\d+),>=2\.(\d+)", bounds["torch"])
    vision = re.fullmatch(r"<0\.(\d+),>=0\.(\d+)", bounds["torchvision"])
    assert torch is not None
    assert vision is not None
    # torchvision 0.(n + 15) is built for torch 2.n and asks for no other.
    assert [int(minor) - 15 for minor in vision.groups()] == [int(minor) for minor in torch.groups()]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package):
    modules = set(chain.from_iterable(map(imported, sources(package))))
    declared = names(CORE) | names(EXTRAS["serve"])
    if package == "geomap":
        declared |= {"pytest"}  # geomap.testing, for tests only
    missing = {module: owner for module, owner in distributions(modules).items() if owner not in declared}
    assert missing == {}


def test_every_import_of_tests_benchmarks_and_docs_is_declared():
    modules = set(chain.from_iterable(map(imported, sources("tests", "benchmarks", "docs"))))
    shared = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in ("tests", "docs"))
    ours = {path.stem for path in shared} | {"benchmarks"}
    modules = {module for module in modules if module.split(".")[0] not in ours}
    declared = names(CORE) | names(EXTRAS["dev"]) | names(EXTRAS["serve"]) | names(EXTRAS["docs"])
    missing = {module: owner for module, owner in distributions(modules).items() if owner not in declared}
    assert missing == {}


def test_every_dependency_is_imported():
    modules = set(chain.from_iterable(map(imported, sources(*PACKAGES))))
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(notebook.read_text())["cells"]:
            modules |= set(re.findall(r"^import (\w+)", "".join(cell["source"]), re.MULTILINE))
    used = set(distributions(modules).values())
    assert names(CORE) - used == NOT_IMPORTED


def tracked() -> set[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name for name in listing.split("\0") if name and (ROOT / name).exists()}


def tree_of_readme() -> dict[str, str]:
    """Path -> description, from the tree in README.md; folders end in a slash."""
    block = (ROOT / "README.md").read_text().split("## The files")[1].split("```")[1]
    entries: dict[str, str] = {}
    folders: list[str] = []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, description = line.strip().partition("  ")
        folders[depth:] = [name]
        entries["".join(folders)] = description.strip()
    return entries


def test_readme_has_a_line_for_every_file():
    entries = tree_of_readme()
    # A folder whose files are not listed one by one speaks for all of them.
    closed = [
        folder
        for folder in entries
        if folder.endswith("/") and not any(path != folder and path.startswith(folder) for path in entries)
    ]
    files = tracked()
    missing = sorted(name for name in files if name not in entries and not name.startswith(tuple(closed)))
    assert missing == [], "no line in the tree of README.md"
    gone = [path for path in entries if not any(name.startswith(path) for name in files)]
    assert gone == [], "in the tree of README.md, but not in the repository"
    assert [path for path, description in entries.items() if not description] == []


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small_and_named_after_a_thing(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "two jobs in one module"
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    if path.name == "__init__.py" and path.parent.name != "geomap":  # which hands out its functions
        assert len(tree.body) == 1, "__init__.py holds a docstring only"


def test_packages_of_the_wheel_are_those_of_the_contracts():
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    assert PROJECT["tool"]["mypy"]["packages"] == list(PACKAGES)


def test_commands_that_are_written_down_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"map", "test", "test-slow", "check", "format", "serve", "bundle", "bench"} <= targets
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", "CHANGELOG.md"):
        said = set(re.findall(r"^\s*make ([a-z-]+)|`make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE))
        assert {first or second for first, second in said} <= targets, name


def test_ci_fails_at_once_without_the_shared_data(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "run"],
        env={"PATH": "/usr/bin:/bin", "GEOMAP_SHARED": str(tmp_path / "none")},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Put the shared data there, or set GEOMAP_SHARED." in done.stderr
