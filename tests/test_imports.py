"""Import directions: arrows point down only, and TensorFlow stays where it belongs."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

# What a module of fr_jax may import of fr_jax ("package" covers all modules below it).
# Every module may import fr_jax.errors.
ALLOWED = {
    "fr_jax": {"embedder"},
    "fr_jax.__main__": {"cli"},
    "fr_jax.errors": set(),
    "fr_jax.diff_augment": set(),
    "fr_jax.dr_gan_options": {"augment", "diff_augment", "losses", "models"},
    "fr_jax.rotations": {"augment", "models"},
    "fr_jax.turns": set(),
    "fr_jax.augment": {"rand_augment"},
    "fr_jax.cpu": set(),
    "fr_jax.faces": {"cpu", "faces", "sharding"},
    "fr_jax.journal": set(),
    "fr_jax.optimizers": set(),
    "fr_jax.queue": set(),
    "fr_jax.rand_augment": set(),
    "fr_jax.sharding": set(),
    "fr_jax.system": set(),
    "fr_jax.checkpoint": set(),
    "fr_jax.momentum": {"system"},
    "fr_jax.streams": {"sharding"},
    "fr_jax.models": {"models"},
    "fr_jax.losses": {"losses"},
    "fr_jax.metrics": {"metrics"},
    "fr_jax.convert": {"convert", "models"},
    "fr_jax.report": {"metrics", "report"},
    "fr_jax.systems": {
        "augment",
        "diff_augment",
        "dr_gan_options",
        "losses",
        "models",
        "optimizers",
        "momentum",
        "queue",
        "rotations",
        "sharding",
        "system",
        "turns",
    },
    "fr_jax.evaluate": {"cpu", "metrics", "sharding"},
    "fr_jax.canary": set(),
    "fr_jax.images": set(),
    "fr_jax.embedder": {
        "canary",
        "convert",
        "evaluate",
        "images",
        "models",
        "sharding",
        "system",
    },
    "fr_jax.export": {"canary", "embedder", "images", "models"},
    "fr_jax.rotator": {"cpu", "embedder", "models"},
    "fr_jax.evaluate_rotation": {
        "cpu",
        "embedder",
        "metrics",
        "models",
        "report",
        "rotator",
    },
    "fr_jax.rotation_figures": {"evaluate_rotation", "report", "rotator"},
    "fr_jax.train": {"checkpoint", "cpu", "evaluate", "journal", "sharding", "system"},
    "fr_jax.cli": None,  # the only glue
}
LAZY = {"fr_jax.journal": {"clu", "tensorflow"}, "fr_jax.export": {"tensorflow"}}
# Image files from strangers are looked at and decoded in one place of the project.
FROM_PIPELINES = {
    "fr_jax.images": {"data_pipelines.DataError", "data_pipelines.images"}
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


def rule(name: str):
    while name not in ALLOWED:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize(
    ("name", "path"), list(modules("fr_jax")), ids=lambda x: str(x)[-30:]
)
def test_arrows_of_fr_jax_point_down(name, path):
    allowed = ALLOWED[rule(name)]
    if allowed is None:
        return
    for target in imported(path):
        root, _, rest = target.partition(".")
        if root == "fr_jax":
            part = rest.split(".")[0]
            assert part in allowed | {"errors"}, f"{name} imports {target}"
        if root == "data_pipelines":
            assert target in FROM_PIPELINES.get(name, ()), f"{name} imports {target}"
        if root in ("tensorflow", "tensorflow_datasets", "clu"):
            assert root in LAZY.get(name, ()), f"{name} imports {target}"
    lazily = ("tensorflow", "tensorflow_datasets", "clu", "data_pipelines")
    for target in imported(path, top_only=True):
        assert target.split(".")[0] not in lazily
        if target.startswith("orbax"):
            assert name == "fr_jax.checkpoint"


def test_systems_never_import_each_other():
    for name, path in modules("fr_jax/systems"):
        others = [t for t in imported(path) if t.startswith("fr_jax.systems")]
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
import sys, fr_jax.train, fr_jax.embedder, fr_jax.convert, fr_jax.export
import fr_jax.cli.training, fr_jax.cli.evaluating, fr_jax.cli.data
import fr_jax.cli.importing, fr_jax.cli.embedding, fr_jax.cli.comparing
import fr_jax.cli.exporting, fr_jax.systems.inter_prototype
import data_pipelines.pairs, data_pipelines.align, data_pipelines.detect
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
from tests import toy
from fr_jax import train
folder = {str(tmp_path)!r}
run = train.train(toy.make(), toy.stream(), folder, num_steps=20, log_every=10)
print(run.step)
"""
    assert in_a_new_process(code).strip() == "20"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert not list(tmp_path.glob("events*"))
