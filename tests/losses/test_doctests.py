"""Examples in the docstrings of losses and optimisers: they run and are right."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

from fr_jax import losses, optim


def modules(package):
    actual = pkgutil.iter_modules(package.__path__)
    return [f"{package.__name__}.{module.name}" for module in actual]


LOSSES = modules(losses)


@pytest.mark.parametrize("name", LOSSES + modules(optim))
def test_examples_print_the_stated_numbers(name):
    module = importlib.import_module(name)
    with np.printoptions(precision=4, suppress=True):
        results = doctest.testmod(module)
    assert results.failed == 0
    if name in LOSSES:
        assert results.attempted >= 1


@pytest.mark.parametrize("name", LOSSES)
def test_every_public_loss_has_an_example(name):
    module = importlib.import_module(name)
    functions = {
        actual.name.rpartition(".")[2]
        for actual in doctest.DocTestFinder().find(module)
        if actual.examples
    }
    public = {
        function
        for function, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == name
        and not function.startswith("_")
    }
    assert public and public - functions == set()
