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

from tests.support.notebooks import NOTEBOOKS
from tests.support.paths import ROOT

JPEG_QUALITY = 85
_NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def execute(path: Path, folder: Path) -> Any:
    """Returns a notebook after an execution in a new kernel, outputs cleaned.

    Args:
      folder: the working directory of the kernel.

    Raises:
      nbclient.exceptions.CellExecutionError: for a cell that fails.
    """
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
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
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for out in cell.outputs:
            if "data" in out:
                out.data = _picture(out.data) if "image/png" in out.data else out.data
                out.metadata = {}
    return notebook


def _picture(data: dict[str, str]) -> dict[str, str]:
    """Returns a picture as PNG, or as JPEG where that is less than half as large."""
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    image = image.convert("RGB")
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "png", optimize=True)
    image.save(jpeg, "jpeg", quality=JPEG_QUALITY, optimize=True)
    small = jpeg.tell() < png.tell() / 2
    kind, file = ("image/jpeg", jpeg) if small else ("image/png", png)
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

    Args:
      tolerance: of each number, absolute up to 1 and relative beyond.
    """
    first, second = (_NUMBER.sub("#", one).split() for one in (stored, fresh))
    if first != second:
        return f"words: stored {stored!r}, fresh {fresh!r}"
    for one, other in zip(_NUMBER.findall(stored), _NUMBER.findall(fresh), strict=True):
        if abs(float(one) - float(other)) > tolerance * max(1.0, abs(float(one))):
            return f"stored {one}, fresh {other}, tolerance {tolerance}: {stored!r}"
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
