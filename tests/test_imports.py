"""Import directions, by folder: docs/architecture.md describes them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fr_jax
from tests.support.paths import ROOT

# Folders of fr_jax from low to high: each may import itself and lower ranks.
RANKS = (
    {"lazy"},
    {"__init__", "errors", "interrupt", "progress"},
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
    "fr_jax.cli.info": {"clu"},
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


STEPS = {"system", "errors", "backend", "augment", "losses", "models", "optim"}


@pytest.mark.parametrize(
    ("name", "path"),
    [actual for actual in modules("fr_jax/systems") if actual[0].endswith(".system")],
    ids=lambda x: str(x)[-30:],
)
def test_steps_of_a_paper_know_nothing_of_data_and_commands(name, path):
    room = name.removesuffix(".system")
    for target in imported(path):
        if target.split(".")[0] == "fr_jax" and not target.startswith(room):
            folder = folder_of(target + ".")
            assert folder in STEPS, f"{name} imports {target}"


READS = re.compile(
    r"systems\.\w+\.(data|evaluation|commands|figures|posed_sets|photographs|batches"
    r"|rendered|triplets)"
    r"|training\.(sources|streams|workdir)|evaluation\.(\w+_)?sets|embedder\.inputs"
    r"|convert\.readers\..*|cli\..*"
)


def test_data_pipelines_are_imported_inside_functions_by_few():
    for name, path in modules("fr_jax"):
        actual = [t for t in imported(path) if t.startswith("data_pipelines")]
        if actual:
            own = name.removeprefix("fr_jax.")
            assert READS.fullmatch(own), f"{name} imports {actual}"
        at_top = [t for t in imported(path, top_only=True) if t in actual]
        assert not at_top, f"{name} imports {at_top} at its top"


def test_no_test_module_is_imported_by_another():
    for name, path in modules("tests"):
        for target in imported(path):
            parts = target.split(".")
            assert not (parts[0] == "tests" and parts[-1].startswith("test_")), name
            helper = parts[:2] == ["tests", "support"]
            assert parts[0] != "tests" or helper, f"{name} imports {target}"


PUBLIC = {"systems", "losses", "metrics", "models", "faces", "__version__"}
PUBLIC_DATA = {"data_pipelines.samplers", "data_pipelines.vision.rand_augment"}


def code_of_users():
    yield "README.md", *re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    for path in sorted((ROOT / "colabs").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        yield (
            path.name,
            *(re.sub(r"^(\s*)[%!].*$", r"\1pass", text, flags=re.M) for text in code),
        )


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("parts", list(code_of_users()), ids=lambda parts: parts[0])
def test_notebooks_and_readme_use_public_names_only(parts):
    name, *codes = parts
    public = set(fr_jax.__all__) | PUBLIC
    for code in codes:
        for node in ast.walk(ast.parse(code)):
            targets = []
            if isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                targets = [f"{node.value.id}.{node.attr}"]
            for target in targets:
                root, *rest = target.split(".")
                if root == "fr_jax" and rest:
                    assert rest[0] in public, f"{name} uses {target}"
                if root == "data_pipelines":
                    assert target in PUBLIC_DATA, f"{name} uses {target}"


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


def test_fr_jax_is_imported_without_tensorflow_and_jax():
    """Which makes it quick: little but Python's own modules is loaded."""
    actual = in_a_new_process("import sys, fr_jax; print(*sys.modules)").split()
    assert not {"tensorflow", "jax", "numpy"} & set(actual)
    assert len(actual) < 120


def test_everything_but_records_is_imported_without_tensorflow():
    code = """
import sys, fr_jax.training.loop, fr_jax.embedder.export, fr_jax.convert
import fr_jax.cli.train, fr_jax.cli.evaluate, fr_jax.cli.data
import fr_jax.cli.import_, fr_jax.cli.embed, fr_jax.cli.compare
import fr_jax.cli.export, fr_jax.systems.inter_prototype.system
import data_pipelines.protocols.pairs, data_pipelines.vision.detect
heavy = {'tensorflow', 'tensorflow_datasets', 'tensorboard', 'clu'}
print(sorted(heavy & set(sys.modules)))
"""
    assert in_a_new_process(code).strip() == "[]"


def test_training_works_where_tensorflow_cannot_be_imported(tmp_path):
    """As on a GPU host without it: metrics.jsonl and TensorBoard's events."""
    code = f"""
import sys
for name in ('tensorflow', 'tensorflow_datasets'):
    sys.modules[name] = None
from tests.support import toy
from fr_jax.training import loop as train
folder = {str(tmp_path)!r}
run = train.train(toy.make(), toy.stream(), folder, num_steps=20, log_every=10)
print(run.step)
"""
    assert in_a_new_process(code).strip() == "20"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert len(list(tmp_path.glob("events*"))) == 1
