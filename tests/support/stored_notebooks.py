"""Executes notebooks and stores them with their outputs: `make notebooks`.

    python -m tests.support.stored_notebooks [NAME ...]

The outputs depend on the sources alone: no paths, times, addresses or progress lines.
Two executions on one machine give equal files.
"""

import base64
import io
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nbformat
import PIL.Image
from nbclient import NotebookClient

from tests.support.notebooks import NOTEBOOKS, code_cells
from tests.support.paths import ROOT

JPEG_QUALITY = 80
CHART_COLOURS = 4096  # more: a picture with faces
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def execute(path: Path, folder: Path) -> Any:
    """Returns a notebook after an execution in a new kernel, outputs cleaned.

    Args:
      folder: the working directory of the kernel.

    Raises:
      nbclient.exceptions.CellExecutionError: for a cell that fails.
    """
    notebook = nbformat.read(path, 4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=1200,
        startup_timeout=300,
        record_timing=False,
        resources={"metadata": {"path": os.fspath(folder)}},
    )
    client.execute(env={"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": str(ROOT)})
    return clean(notebook)


def clean(notebook: Any) -> Any:
    """Returns the notebook with printed text, values and small pictures alone.

    Dropped: stderr, which has progress lines and warnings; metadata of the execution;
    the text that accompanies a picture.
    """
    notebook.metadata = {
        "kernelspec": dict(notebook.metadata.kernelspec),
        "language_info": {"name": "python"},
    }
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = _cleaned(cell.outputs)
    return notebook


def _cleaned(outputs: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "stream" and kept and "text" in kept[-1]:
            kept[-1].text += output.text  # parts as they arrived, at random
            continue
        if "image/png" in output.get("data", {}):
            output.data, output.metadata = _picture(output.data), {}
        kept.append(output)
    return kept


def _picture(data: dict[str, str]) -> dict[str, str]:
    """Returns a chart as PNG of 256 colours, and a picture with faces as JPEG."""
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    image, file = image.convert("RGB"), io.BytesIO()
    if image.getcolors(CHART_COLOURS) is None:
        image.save(file, "jpeg", quality=JPEG_QUALITY, optimize=True)
        kind = "image/jpeg"
    else:
        image.quantize(256).save(file, "png", optimize=True)
        kind = "image/png"
    return {kind: base64.b64encode(file.getvalue()).decode()}


def write(path: Path, notebook: Any) -> None:
    """Writes a notebook as ruff format leaves it."""
    nbformat.validate(notebook)
    tree = json.loads(nbformat.writes(notebook))
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def text(cell: Any) -> str:
    """Returns what a cell printed, and the text of its value."""
    return "".join(
        out.get("text", "") or out.get("data", {}).get("text/plain", "")
        for out in cell.outputs
    )


def difference(stored: str, fresh: str, tolerance: float) -> str:
    """Returns how two outputs differ, '' for equal words and close numbers.

    Deviations over folds, after +-, are as uncertain as the numbers before them: they
    may differ by as much.

    Args:
      tolerance: of each number, absolute up to 1 and relative beyond.
    """
    first, second = (_NUMBER.sub("#", one).split() for one in (stored, fresh))
    if first != second:
        return f"words: stored {stored!r}, fresh {fresh!r}"
    size = 1.0
    for one, other in zip(
        _NUMBER.finditer(stored), _NUMBER.finditer(fresh), strict=True
    ):
        old, new = one[0], other[0]
        if not stored[: one.start()].endswith("+- "):
            size = max(1.0, abs(float(old)))
        if abs(float(old) - float(new)) > tolerance * size:
            return f"stored {old}, fresh {new}, tolerance {tolerance}: {stored!r}"
    return ""


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")  # of Jupyter's own machinery
    unknown = set(names) - {path.stem for path in NOTEBOOKS}
    if unknown:
        sys.exit(f"no notebook {', '.join(unknown)} in colabs/")
    for path in NOTEBOOKS:
        if not names or path.stem in names:
            print(path.relative_to(ROOT), flush=True)
            with tempfile.TemporaryDirectory() as folder:
                write(path, execute(path, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
