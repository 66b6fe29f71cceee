"""The documentation site: Markdown pages, stored notebooks and docstrings (Sphinx).

Sphinx with MyST-NB, since it renders notebooks from their stored outputs and docstrings
in one build, warns of every broken reference, and needs no network; Furo, since its
pages load nothing from elsewhere and suit a phone.
"""

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it greets
DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
sys.path.insert(0, str(ROOT))

import fr_jax  # noqa: E402 - from this checkout

project = "fr_jax"
author = "the fr_jax authors"
version = release = fr_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"fr_jax {version}"
html_copy_source = html_show_sourcelink = False
exclude_patterns = ["build"]
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units instead
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Fields of a NamedTuple are described once, under Attributes.
napoleon_use_ivar = True
autodoc_default_options = {"members": True}

# Public names, in the order of the reference: the root's, then those by kind.
MODULES = {
    "Package root": ["fr_jax"],
    "Systems": [
        "fr_jax.system",
        "fr_jax.systems.inter_prototype",
        "fr_jax.systems.usynthface",
        "fr_jax.systems.landmarks",
        "fr_jax.systems.dr_gan",
        "fr_jax.systems.fra",
    ],
    "Losses": [
        f"fr_jax.losses.{name}"
        for name in (
            *("margin", "inter_prototype", "contrastive"),
            *("adversarial", "reconstruction"),
            "landmarks",
        )
    ],
    "Metrics": [
        f"fr_jax.metrics.{name}"
        for name in (
            *("verification", "folds", "counts", "intervals"),
            *("identification", "templates", "clustering"),
            *("quality", "fairness", "generation", "probes"),
            "landmarks",
        )
    ],
    "Networks": ["fr_jax.models", "fr_jax.models.preprocess", "fr_jax.models.layers"],
    "Optimisation": [
        f"fr_jax.optim.{name}" for name in ("optimizers", "ema", "update_schedule")
    ],
    "Augmentation": [
        "fr_jax.augment",
        "fr_jax.augment.rand_augment",
        "fr_jax.augment.diff_augment",
        "fr_jax.augment.degrade",
        "fr_jax.augment.landmarks",
    ],
    "Training": ["fr_jax.training.data", "fr_jax.training.streams"],
    "Evaluation": ["fr_jax.evaluation.evaluator", "fr_jax.evaluation.verification"],
    "Rendered faces": [
        "fr_jax.faces",
        "fr_jax.faces.sets",
        "fr_jax.faces.batches",
        "fr_jax.faces.landmark_maps",
    ],
    "Data": [
        "data_pipelines.record_set",
        "data_pipelines.samplers",
        "data_pipelines.stream",
        "data_pipelines.protocols.pairs",
        "data_pipelines.protocols.pair_lists",
        "data_pipelines.vision.align",
        "data_pipelines.vision.crop",
        "data_pipelines.vision.detect",
        "data_pipelines.vision.rand_augment",
    ],
}


def _names(module):
    """Public names of a module, classes and functions that are its own or exported."""
    exported = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    ]
    return [name for name in exported if not name.startswith("_")]


def _directive(name: str, value) -> list[str]:
    if isinstance(value, type):
        return [f".. autoclass:: {name}"]
    if callable(value):
        return [f".. autofunction:: {name}"]
    lines = [f".. py:data:: {name}"]
    if isinstance(value, int):
        return [*lines, f"   :value: {value}"]
    return [*lines, "", "   " + ", ".join(f"`{one}`" for one in value), ""]


def _reference() -> str:
    lines = ["# API reference", ""]
    lines += ["Every public name. Names of `fr_jax` itself are imported on first use."]
    for title, modules in MODULES.items():
        lines += ["", f"## {title}", ""]
        for name in modules:
            module = importlib.import_module(name)
            summary = (module.__doc__ or "").partition("\n")[0]
            lines += [f"### `{name}`", "", summary, "", "```{eval-rst}"]
            for member in _names(module):
                lines += _directive(f"{name}.{member}", getattr(module, member))
            lines += ["```", ""]
    return "\n".join(lines)


def _commands() -> str:
    from fr_jax.cli import main

    lines = ["# Commands", "", "The `--help` of every command.", ""]
    for name, (module_name, summary, details) in main.commands().items():
        about = {"description": summary, "epilog": details}
        parser = main.Parser(prog=f"fr-jax {name}", **about)
        importlib.import_module(module_name).add_arguments(parser)
        lines += [f"## `fr-jax {name}`", "", "```text", parser.format_help(), "```", ""]
        for word, child in parser.actions.items():
            lines += [f"### `fr-jax {name} {word}`", ""]
            lines += ["```text", child.format_help(), "```", ""]
    return "\n".join(lines)


def _configurations() -> str:
    lines = ["# Configurations", ""]
    lines += [
        "Every variant and every key, as the files in `configs/` define them. Any key "
        "can be set on the command line: `--config.KEY=VALUE`.",
    ]
    for path in sorted((ROOT / "configs").glob("[!_]*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        lines += ["", f"## `configs/{path.name}`", ""]
        lines += ["Variants: " + ", ".join(f"`{v}`" for v in module.VARIANTS) + "."]
        lines += ["", f"```{{literalinclude}} ../../configs/{path.name}", "```"]
    lines += ["", "## Keys of every configuration", ""]
    lines += ["```{literalinclude} ../../configs/__init__.py", "```", ""]
    lines += ["## Renamed keys", "", "```{literalinclude} ../../fr_jax/cli/renamed.py"]
    return "\n".join([*lines, "```", ""])


def _generate(_) -> None:
    GENERATED.mkdir(exist_ok=True)
    pages = {
        "api": _reference,
        "commands": _commands,
        "configurations": _configurations,
    }
    for name, page in pages.items():
        (GENERATED / f"{name}.md").write_text(page())
    notebooks = GENERATED / "notebooks"
    shutil.rmtree(notebooks, ignore_errors=True)
    shutil.copytree(ROOT / "colabs", notebooks)


def _plain(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Escapes what reStructuredText would take for markup outside `code`.

    Attributes that share a description, "a, b: text", become fields of their own.
    """
    for number, line in reversed(list(enumerate(lines))):
        several = re.match(r"( +)(\w+(?:, \w+)+): ", line)
        heads = [head for head in lines[:number] if re.fullmatch(r"\w+:", head)]
        if several and heads[-1:] == ["Attributes:"]:
            *others, last = several[2].split(", ")
            fields = [f"{several[1]}{name}: see `{last}`." for name in others]
            fields.append(f"{several[1]}{last}: {line[several.end() :]}")
            lines[number : number + 1] = fields
    for number, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([|*]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "`".join(parts)


def _skip(_app, _what, name, value, skip, _options) -> bool | None:
    """Leaves out NamedTuple fields, which the class describes, and its methods."""
    return True if type(value).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _plain, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
    app.connect("builder-inited", _generate)
