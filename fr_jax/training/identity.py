"""The identity of a run: what its numbers follow from.

The configuration, the fingerprint of the data, the digests of the start weights and of
the update. It is stored with every checkpoint, so that a run is never continued as
another one. `FREE` names the keys of a configuration that are no part of it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import fr_jax
from fr_jax.errors import UserError
from fr_jax.training.workdir import of_first_process

# Keys of a configuration that change no weight beyond rounding. Contents behind the
# paths are part of the fingerprint of the data.
FREE = (
    "train.model_axis",
    "train.log_every",
    "train.save_every",
    "train.evaluate_every",
    "train.keep",
    "train.best_metric",
    "train.profile",
    "data.records.path",
    "data.records.auxiliary",
    "data.embeddings",
    "evaluation",
)
# These do if evaluations lower the learning rate or stop the run.
STEERING = ("train.evaluate_every", "evaluation")
LENGTH = ("train.epochs", "train.num_steps")

# Parts of fingerprints whose values say nothing to a reader.
_DIGESTS = {
    "digest": "identities, labels or images",
    "labels": "labels",
    "labels_and_seeds": "labels or seeds in the first batch",
    "mean_pixels": "images in the first batch",
}
# Means of images may differ so much between machines, which round otherwise.
_PIXELS = 0.5


class Identity(NamedTuple):
    """The identity of a run, as JSON values.

    Attributes:
      settings: the configuration, nested.
      data: 'sets', fingerprints by name; 'stream', that of the stream, if it has one;
        'first_batch', see `digests.of_batch`. Not compared if only one run has it.
      given: digest of the start weights, by the system's name for them.
      step: digest of the update; '' if it is not known yet.
      num_steps: length of the run; not compared.
      provenance: of what is handed over; not compared.
      versions: of the programs that `step` depends on.
    """

    settings: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}
    given: Mapping[str, str] = {}
    step: str = ""
    num_steps: int = 0
    provenance: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {
        "jax": jax.__version__,
        "fr_jax": fr_jax.__version__,
    }

    def differences(self, now: "Identity", *, steered: bool = False) -> list[str]:
        """Returns a line for each part in which `now` differs from this, stored one.

        A key of the settings that only one of the two has counts only if its value is
        true, since versions of the program add and remove options.

        Args:
          steered: whether evaluations lower the learning rate or stop the run.
        """
        free = [key for key in FREE if not (steered and key in STEERING)]
        lines = []
        old, new = _flat(self.settings), _flat(now.settings)
        for key in _different(old, new):
            one_has_it = (key in old) != (key in new)
            if one_has_it and not (old | new)[key]:
                continue
            if not any(f"{key}.".startswith(f"{one}.") for one in free):
                lines.append(_line("", key, old, new))
        for part in sorted(self.data.keys() & now.data.keys()):
            old, new = _flat(self.data[part]), _flat(now.data[part])
            lines += [_line("data: ", key, old, new) for key in _different(old, new)]
        for name in _different(self.given, now.given):
            lines.append(_line("weights given as ", name, self.given, now.given))
        known = self.comparable(now) and self.step and now.step
        if known and self.step != now.step:
            lines.append("the update: a loss, network, optimiser or option changed")
        return lines

    def comparable(self, now: "Identity") -> bool:
        """Returns whether the digests of updates were made by the same programs."""
        return dict(self.versions) == dict(now.versions)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(self._asdict()))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Identity":
        """Returns the identity of `to_json`; ignores fields of other versions."""
        return cls(**{name: stored[name] for name in cls._fields if name in stored})


def check(
    stored: Identity,
    now: Identity,
    workdir: Any,
    *,
    steered: bool = False,
    prolongs: bool = False,
) -> None:
    """Raises a UserError if `stored`, in `workdir`, is the identity of another run.

    Args:
      prolongs: whether `now` may be longer.
    """
    lines = stored.differences(now, steered=steered)
    length = [line for line in lines if line.partition(":")[0] in LENGTH]
    hint = "; or prolong the run with --prolong" if length == lines else ""
    if prolongs:
        lines = [line for line in lines if line not in length]
        if now.num_steps < stored.num_steps:
            raise UserError(
                f"--prolong: the run in {workdir} has {stored.num_steps:,} steps, more "
                f"than {now.num_steps:,}"
            )
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{workdir} holds another run ({'; '.join(lines[:5])}{more}); choose "
            "another workdir, or begin anew with --fresh (in Python fresh=True), which "
            f"moves the old run aside{hint}"
        )


def resumed(
    stored: Identity,
    now: Identity,
    workdir: Any,
    *,
    steered: bool,
    former: str = "",
    say: Callable[[str], None] = print,
) -> Identity:
    """Returns the identity with which a run goes on, in all processes.

    Args:
      former: digest of the update for the smaller number of steps that `now` prolongs.

    Raises:
      UserError: see `check`.
    """
    refusal = ""
    try:
        before = now._replace(step=former or now.step)
        check(stored, before, workdir, steered=steered, prolongs=bool(former))
    except UserError as error:
        refusal = str(error)
    if refusal := of_first_process(refusal):
        raise UserError(refusal)
    if not stored.comparable(now):
        before, after = (_names(one.versions) for one in (stored, now))
        say(f"the update was not compared: begun with {before}, this is {after}")
    if former and former != now.step:
        say(
            f"prolonged to {now.num_steps:,} steps: the update follows a schedule of "
            "that length from here on"
        )
    elif former:
        say(
            f"prolonged to {now.num_steps:,} steps: the update does not depend on the "
            "length, so it goes on as before"
        )
    return stored._replace(
        settings=now.settings if former else stored.settings,
        data={**now.data, **stored.data},
        step=now.step,
        num_steps=max(now.num_steps, stored.num_steps),
        versions=now.versions,
    )


def _names(versions: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the names whose values differ, pixels by more than `_PIXELS`."""

    def same(name: str) -> bool:
        if name not in old or name not in new:
            return False
        if name != "mean_pixels":
            return old[name] == new[name]
        before, after = np.array(old[name]), np.array(new[name])
        close = before.shape == after.shape
        return close and np.allclose(before, after, rtol=0, atol=_PIXELS)

    return sorted(name for name in {**old, **new} if not same(name))


def _line(kind: str, name: str, old: Mapping, new: Mapping) -> str:
    before, after = (one.get(name, "absent") for one in (old, new))
    last = name.rpartition(".")[2]
    if last in _DIGESTS and "absent" not in (before, after):
        return f"{kind}other {_DIGESTS[last]}"
    return f"{kind}{name}: {before!r} before, {after!r} now"


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by dotted keys, as they are read back from JSON."""
    return flatten_dict(json.loads(json.dumps(nested)), sep=".")
