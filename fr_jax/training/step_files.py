"""The files of a checkpoint besides orbax's: layout, manifest, identity and scores."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from fr_jax.embedder.description import read_json, sha256
from fr_jax.errors import UserError
from fr_jax.training.identity import Identity

MANIFEST, RUN = "manifest.json", "run.json"
# Version of the contents of a step; it has `run.json` since layout 3.
LAYOUT, LAYOUT_FILE = "3", "layout"
_VERSIONS = {"": "0.1.0", "2": "0.2.0"}  # the last ones with an earlier layout


def check_layout(directory: epath.PathLike) -> None:
    """Raises a UserError for checkpoints in the layout of another version."""
    folder = epath.Path(directory)
    saved = steps(folder)
    if not saved or any((folder / str(step) / RUN).exists() for step in saved):
        return
    file = folder / LAYOUT_FILE
    layout = file.read_text().strip() if file.exists() else ""
    if layout != LAYOUT:
        version = _VERSIONS.get(layout, "of another version")
        raise UserError(
            f"{folder} was begun with fr_jax {version}, whose checkpoints have another "
            "layout: finish it with that version, choose another workdir, or begin "
            "anew with --fresh (in Python fresh=True)"
        )


def stored_identity(directory: epath.PathLike) -> Identity | None:
    """Returns the identity of the run in a folder of checkpoints; None without one.

    It is that of the newest step whose `run.json` is undamaged; other files of the step
    are not checked.
    """
    folder = epath.Path(directory)
    for step in sorted(steps(folder), reverse=True):
        if about := read(folder / str(step)):
            return Identity.from_json(about["identity"])
    return None


def steps(folder: epath.Path) -> list[int]:
    """Returns the steps in a folder of checkpoints, which may not exist."""
    if not folder.exists():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def seal(step: epath.Path, identity: Identity, scores: Mapping[str, float]) -> None:
    """Adds `run.json` to the folder of a step, and the manifest of all its files."""
    about = {"identity": identity.to_json(), "scores": dict(scores)}
    (step / RUN).write_text(json.dumps(about, indent=1))
    digests = {name: sha256(step / name) for name in files(step)}
    (step / MANIFEST).write_text(json.dumps(digests, indent=1))


def read(step: epath.Path) -> dict[str, Any]:
    """Returns the contents of a step's `run.json`; {} if it is damaged."""
    try:
        sealed = read_json(step / MANIFEST)
        if sealed[RUN] == sha256(step / RUN):
            return read_json(step / RUN)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # found again, and said, when the step is restored
    return {}


def damage(step: epath.Path) -> str:
    """Returns the damage of a step on disk; '' if there is none."""
    try:
        sealed = read_json(step / MANIFEST)
        present, expected = set(files(step)), {RUN, *sealed}
        for name in sorted(present ^ expected):
            return f"{name} {'is missing' if name in expected else 'was added'}"
        for name, digest in sealed.items():
            if sha256(step / name) != digest:
                return f"{name} was altered"
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so it was not completely written"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    return ""


def files(step: epath.Path) -> list[str]:
    """Returns the relative names of all files below a folder except the manifest."""
    return sorted(
        str((parent / name).relative_to(step))
        for parent, _, names in step.walk()
        for name in names
        if name != MANIFEST
    )
