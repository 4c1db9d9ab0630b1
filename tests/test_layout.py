"""The house rules that a machine can check; docs/adr/0001 says why they are what they are."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("facepipe", "pipelines", "training")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FILE_TARGET_LINES, FILE_CAP_LINES, FUNCTION_CAP_LINES = 300, 400, 60
OVER_TARGET_SHARE = 0.1  # of all modules, at most
BANNED_NAMES = {
    *("utils", "util", "helpers", "helper", "common", "misc"),
    *("manager", "handler", "processor", "engine"),
}
TOP_LEVEL = {
    *(".ci", "benchmarks", "docs", "infra", "tests", *PACKAGES),
    *(".git", ".gitattributes", ".gitignore", ".pre-commit-config.yaml"),
    *("LICENSE", "README.md", "pyproject.toml"),
}
# Seconds to import, hundreds of megabytes, or both: only when first used.
HEAVY = {
    *("torch", "ray", "apache_beam", "mlflow", "openvino", "insightface", "onnx", "onnxruntime"),
    *("cv2", "PIL", "faiss", "scipy", "skimage", "pandas", "pyarrow", "jinja2"),
}
# A file in one of these formats can run code when it is read.
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Import package -> distribution, where the names differ by more than - and _.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "faiss": "faiss-cpu", "yaml": "pyyaml"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level package of every absolute import, also of the lazy ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_the_packages_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_keeps_the_house_rules(path: Path) -> None:
    tree = _tree(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_CAP_LINES, f"{lines} lines: split it along what it does"
    assert not BANNED_NAMES & set(path.stem.split("_")), "name it after what it holds"
    assert ast.get_docstring(tree), "the first line of a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_CAP_LINES, f"{node.name} has {length} lines"


def test_most_modules_are_within_the_target() -> None:
    over = [_name(p) for p in MODULES if len(p.read_text().splitlines()) > FILE_TARGET_LINES]
    assert len(over) <= OVER_TARGET_SHARE * len(MODULES), over


def test_tests_mirror_the_packages() -> None:
    """tests/facepipe/test_clean.py and test_clean_folds.py belong to facepipe/clean.py."""
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = ROOT / path.parent.relative_to(ROOT / "tests")
        if folder == ROOT:
            continue  # about the project as a whole
        modules = {entry.stem for entry in folder.glob("*") if entry.stem != "__init__"}
        words = path.stem.split("_")[1:]
        if not modules & {"_".join(words[:n]) for n in range(1, len(words) + 1)}:
            strays.append(_name(path))
    assert strays == []


def _unsafe_reads(tree: ast.AST) -> Iterator[str]:
    """Yield what reads a file in a way that could run code from it."""
    yield from (f"import {name}" for name in _imports(tree) if name in PICKLES)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if re.fullmatch(r"yaml\.(load|load_all|unsafe_load\w*|full_load\w*)", call):
            yield f"{call}: yaml.safe_load"
        if call == "torch.load" and given.get("weights_only") != "True":
            yield f"{call} without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"{call} with allow_pickle"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_file_is_read_in_a_way_that_runs_code(path: Path) -> None:
    assert list(_unsafe_reads(_tree(path))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "yaml.load(text, Loader=yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_a_read_that_runs_code_is_noticed(source: str) -> None:
    assert len(list(_unsafe_reads(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source", ["yaml.safe_load(t)", "torch.load(p, weights_only=True)", "np.load(p)"]
)
def test_a_safe_read_passes(source: str) -> None:
    assert not list(_unsafe_reads(ast.parse(source)))


def test_top_level_holds_only_what_belongs_there() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    strangers = [
        entry.name
        for entry in ROOT.iterdir()
        if entry.name not in TOP_LEVEL
        and not any(fnmatch.fnmatch(entry.name, pattern) for pattern in ignored)
    ]
    assert strangers == []


@pytest.mark.parametrize("module", PACKAGES)
def test_import_stays_light(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(ran.stdout.split()) == set()


def _distribution_names(requirements: list[str]) -> set[str]:
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def test_every_import_is_declared() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    runtime = [
        line for name in ("ray", "beam", "train", "openvino", "video") for line in extras[name]
    ]
    declared = _distribution_names(PYPROJECT["project"]["dependencies"] + runtime)
    undeclared = {
        f"{_name(path)}: {package}"
        for path in MODULES
        for package in _imports(_tree(path))
        if package not in sys.stdlib_module_names and package not in PACKAGES
        if DISTRIBUTIONS.get(package, package.lower().replace("_", "-")) not in declared
    }
    assert undeclared == set()


def test_every_dependency_is_pinned() -> None:
    pins = (ROOT / "infra" / "constraints.txt").read_text().splitlines()
    exact = {line.split("==")[0] for line in pins if "==" in line}
    assert all(re.match(r"#|$|[\w.-]+==[\w.]+$", line) for line in pins)
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    declared = PYPROJECT["project"]["dependencies"] + [line for extra in extras for line in extra]
    assert _distribution_names(declared) - exact == {"facepipe"}  # [all] names facepipe itself


def test_one_opencv_is_installed() -> None:
    # Two of them write the same files, and the last one installed wins in part.
    names = {dist.metadata["Name"].lower() for dist in distributions()}
    assert {name for name in names if name.startswith("opencv")} == {"opencv-python"}


HELP = """
import sys
from pipelines import cli
sys.argv = ["facepipe", "--help"]
try:
    cli.app()
except SystemExit:
    pass
print("MODULES", *{name.split(".")[0] for name in sys.modules})
import typer.main
def walk(command, path):
    children = getattr(command, "commands", None)
    if children is None:
        print("COMMAND", path)
    for name, child in (children or {}).items():
        if not child.hidden:
            walk(child, f"{path} {name}")
walk(typer.main.get_command(cli.app), "facepipe")
"""


@pytest.fixture(scope="session")
def help_lines() -> list[str]:
    """Return what `facepipe --help` leaves behind: its commands, the modules it imported."""
    if not (ROOT / "pipelines" / "cli.py").exists():
        pytest.skip("pipelines/cli.py is not written yet")
    ran = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_help_stays_light(help_lines: list[str]) -> None:
    (modules,) = (line.split()[1:] for line in help_lines if line.startswith("MODULES "))
    assert "typer" in modules
    assert HEAVY & set(modules) == set()


def test_readme_table_names_every_command_and_no_other(help_lines: list[str]) -> None:
    commands = {line.partition(" ")[2] for line in help_lines if line.startswith("COMMAND ")}
    rows = re.findall(r"^\| *`(facepipe[^`]*)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    # What follows the command's words is its arguments: SRC, --out, [..], FACE_ID.
    words = (re.match(r"facepipe(?: [a-z][a-z-]*)*", row) for row in rows)
    assert {match[0] for match in words if match} == commands


def test_readme_says_how_to_install_and_test() -> None:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"^<!-- test -->\n```\w*\n(.+?)\n```\n<!-- /test -->$", readme, re.M | re.S)
    assert block, ".ci/run takes the test command from between these marks"
    for script in re.findall(r"\binfra/[\w.]+\.sh\b", readme):
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not executable"
    assert "infra/curate.sh" in readme
