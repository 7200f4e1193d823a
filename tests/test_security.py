"""Nothing from outside is unpickled or run: the sources are searched for whatever could."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("esans", "jobs", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py"))
# The one unpickler, which knows DCP's classes only (tests/train/test_checkpoint.py gives it a foreign one).
UNPICKLER = Path("esans/train/dcp.py")
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE = {"eval", "exec", "compile", "__import__"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call passes under a keyword; None where it passes none."""
    found = [word.value for word in call.keywords if word.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def problems(source: str) -> list[str]:
    """What a module does that could run foreign content."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in names if name.partition(".")[0] in PICKLES]
    for name, call in calls(tree):
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") not in (None, False):
            found.append("np.load with allow_pickle")
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pd.read_pickle", "pandas.read_pickle"):
            found.append(name)
        if name in UNSAFE:
            found.append(name)
        if keyword(call, "shell") is True or name in ("os.system", "os.popen"):
            found.append(f"{name} through a shell")
        if keyword(call, "trust_remote_code") is True:
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", "imports pickle"),
        ("from cloudpickle import loads", "imports cloudpickle"),
        ("import torch\ntorch.load(x)", "torch.load without weights_only=True"),
        ("torch.load(x, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(x, allow_pickle=True)", "np.load with allow_pickle"),
        ("yaml.load(x, Loader=yaml.Loader)", "yaml.load"),
        ("eval(text)", "eval"),
        ("subprocess.run(text, shell=True)", "subprocess.run through a shell"),
        ("Model(x, trust_remote_code=True)", "trust_remote_code"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, expected: str) -> None:
    assert expected in problems(source)


def test_no_source_unpickles_or_runs_what_comes_from_outside() -> None:
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): problems(path.read_text()) for path in SOURCES}
    assert found.pop(str(UNPICKLER)) == ["imports pickle"]
    assert {path: what for path, what in found.items() if what} == {}


def test_the_one_unpickler_is_the_one_that_names_its_classes() -> None:
    tree = ast.parse((ROOT / UNPICKLER).read_text())
    uses = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle.")]
    assert uses == ["pickle.Unpickler"]
    (unpickler,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "MetadataUnpickler"]
    assert "find_class" in {node.name for node in unpickler.body if isinstance(node, ast.FunctionDef)}


def test_no_file_of_the_project_holds_a_key() -> None:
    marks = ("AKIA", "-----BEGIN " + "PRIVATE KEY", "-----BEGIN RSA", "ghp_", "xoxb-", "hf_")
    folders = ("esans", "jobs", "conf", "docker", "tools", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [(path, mark) for path in files for mark in marks if mark in path.read_text(errors="ignore")] == []
