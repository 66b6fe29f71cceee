"""Import directions: arrows point down only, and TensorFlow stays where it belongs."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Folders of fr_jax from low to high: each may import itself and lower ranks.
RANKS = (
    {"lazy"},
    {"__init__", "errors"},
    {"system", "provenance", "backend", "augment", "losses", "metrics"},
    {"models", "optim"},
    {"convert", "faces", "report"},
    {"embedder"},
    {"evaluation"},
    {"training"},
    {"systems"},
    {"cli"},
    {"__main__"},
)
RANK = {folder: number for number, folders in enumerate(RANKS) for folder in folders}
LAZY = {
    "fr_jax.training.metric_log": {"clu", "tensorflow"},
    "fr_jax.embedder.export": {"tensorflow"},
}
TENSORFLOW = {"records", "stream", "builders.faces"}


def modules(package: str):
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        yield name, path


def imported(path: Path, *, top_only: bool = False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize(
    ("name", "path"), list(modules("fr_jax")), ids=lambda x: str(x)[-30:]
)
def test_folders_of_fr_jax_import_lower_ranks_only(name, path):
    own = folder_of(name)
    for target in imported(path):
        root = target.split(".")[0]
        if root == "fr_jax" and (other := folder_of(target)) not in (own, "system"):
            assert RANK[other] < RANK[own], f"{name} imports {target}"
        if root in ("tensorflow", "tensorflow_datasets", "clu"):
            assert root in LAZY.get(name, ()), f"{name} imports {target}"
    for target in imported(path, top_only=True):
        assert target.split(".")[0] not in ("tensorflow", "tensorflow_datasets", "clu")
        if target.startswith("orbax"):
            assert name == "fr_jax.training.checkpoint"


def test_systems_never_import_each_other():
    for name, path in modules("fr_jax/systems"):
        room = name.split(".")[2:3]
        others = [t for t in imported(path) if t.startswith("fr_jax.systems")]
        others = [t for t in others if t.split(".")[2:3] != room]
        assert not others, f"{name} imports {others}"


@pytest.mark.parametrize(
    ("name", "path"), list(modules("data_pipelines")), ids=lambda x: str(x)[-30:]
)
def test_data_pipelines_know_neither_jax_nor_fr_jax(name, path):
    for target in imported(path):
        root = target.split(".")[0]
        assert root not in ("jax", "flax", "optax", "orbax", "fr_jax"), name
        if root in ("tensorflow", "tensorflow_datasets"):
            assert name.removeprefix("data_pipelines.") in TENSORFLOW, name


def in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fr_jax_is_imported_quickly_and_without_tensorflow():
    code = (
        "import sys, fr_jax; print('tensorflow' in sys.modules, 'jax' in sys.modules)"
    )
    in_a_new_process(
        code
    )  # from the disk once, so that the second time is the program's
    began = time.perf_counter()
    assert in_a_new_process(code).split() == ["False", "False"]
    assert time.perf_counter() - began < 3


def test_everything_but_records_is_imported_without_tensorflow():
    code = """
import sys, fr_jax.training.loop, fr_jax.embedder.export, fr_jax.convert
import fr_jax.cli.train, fr_jax.cli.evaluate, fr_jax.cli.data
import fr_jax.cli.import_, fr_jax.cli.embed, fr_jax.cli.compare
import fr_jax.cli.export, fr_jax.systems.inter_prototype.system
import data_pipelines.protocols.pairs, data_pipelines.vision.detect
heavy = {'tensorflow', 'tensorflow_datasets', 'clu'}
print(sorted(heavy & set(sys.modules)))
"""
    assert in_a_new_process(code).strip() == "[]"


def test_the_parts_of_clu_that_are_used_import():
    in_a_new_process("import clu.metric_writers, clu.parameter_overview")


def test_training_works_where_tensorflow_cannot_be_imported(tmp_path):
    """As on a GPU host without it: metrics.jsonl is written, and no events."""
    code = f"""
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'tensorboard'):
    sys.modules[name] = None
from tests.support import toy
from fr_jax.training import loop as train
folder = {str(tmp_path)!r}
run = train.train(toy.make(), toy.stream(), folder, num_steps=20, log_every=10)
print(run.step)
"""
    assert in_a_new_process(code).strip() == "20"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert not list(tmp_path.glob("events*"))
