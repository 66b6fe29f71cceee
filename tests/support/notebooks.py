"""The notebooks in `colabs/`, and their execution in this process."""

import ast
import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def run(path: Path, folder: Path, constants: Mapping[str, Any]) -> str:
    """Runs the cells of a notebook in this process; returns the printed text.

    Several notebooks share imports and compiled programs.

    Args:
      folder: the working directory of the cells.
      constants: new values of constants that the notebook assigns at top level, as
        `STEPS = 300` or `STEPS, SIZE = 300, 48`.
    """
    cells = [_python(cell.source) for cell in code_cells(nbformat.read(path, 4))]
    cells = _with_constants(path, cells, constants)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells):
            _execute(cell, names, f"{path.name}, code cell {number}")
    return printed.getvalue()


def code_cells(notebook: Any) -> list[Any]:
    """Returns the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _python(source: str) -> str:
    """Translates `%magic` lines to Python, as IPython does."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def _execute(source: str, names: dict[str, Any], where: str) -> None:
    """Executes a cell, and formats the value of its last expression for display."""
    from IPython.core.formatters import DisplayFormatter

    tree = ast.parse(source)
    last = (
        tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    )
    exec(compile(tree, where, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), where, "eval"), names)
        DisplayFormatter().format(value)


def _with_constants(
    path: Path, cells: list[str], constants: Mapping[str, Any]
) -> list[str]:
    assigned: list[str] = []
    changed = []
    for cell in cells:
        tree = ast.parse(cell)
        before = len(assigned)
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                assigned += _replace_values(statement, constants)
        hit = set(assigned[before:]) & set(constants)
        changed.append(ast.unparse(tree) if hit else cell)
    settable = [name for name in assigned if re.fullmatch("[A-Z_]+", name)]
    for name in constants:
        assert assigned.count(name) == 1, (
            f"{path.name} assigns {name} {assigned.count(name)} times, not once; its "
            f"constants are {', '.join(settable)}"
        )
    return changed


def _replace_values(statement: ast.Assign, constants: Mapping[str, Any]) -> list[str]:
    """Replaces values of an assignment; returns the names that it assigns."""
    (target, *_), value = statement.targets, statement.value
    if isinstance(target, ast.Name):
        if target.id in constants:
            statement.value = ast.Constant(constants[target.id])
        return [target.id]
    if not (isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)):
        return []
    names = [part.id for part in target.elts if isinstance(part, ast.Name)]
    for position, name in enumerate(names):
        if name in constants:
            value.elts[position] = ast.Constant(constants[name])
    return names
