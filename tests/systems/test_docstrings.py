"""Module docstrings of losses and systems name the paper."""

import importlib
import pkgutil
import re

import pytest

from fr_jax import losses, systems

LOSSES = [module.name for module in pkgutil.iter_modules(losses.__path__)]
MODULES = [f"fr_jax.losses.{name}" for name in LOSSES]
MODULES += [f"fr_jax.systems.{name}.system" for name in systems.names()]

WITHOUT_ARXIV = ("fr_jax.systems.self_augmentation.system",)
DOI = r"DOI\s10\.\d{4}/\w"


@pytest.mark.parametrize("name", MODULES)
def test_module_docstrings_have_an_identifier_of_the_paper(name):
    text = importlib.import_module(name).__doc__ or ""
    kind = DOI if name in WITHOUT_ARXIV else r"arXiv\s\d{4}\.\d{4,5}"
    assert re.search(kind, text)
