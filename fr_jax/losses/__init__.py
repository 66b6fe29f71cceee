"""Losses as pure functions: arrays in, values per example out, no parameters.

The module of each loss names its paper, every function has an example. Examples are run
by the tests, with `np.printoptions(precision=4, suppress=True)`.
"""
