"""Self-augmentation: the persons of one video, learnt without labels.

Lee, Tseng, Luo, Yu, Chiu: Learning Face Recognition Unsupervisedly by Disentanglement
and Self-Augmentation (ICRA 2020, DOI 10.1109/ICRA40945.2020.9197348). Three stages,
each a run of its own:

1. identity: the encoder E of identities learns from triplets that the video determines
   (`triplets`), by SymTriplet (`losses.triplet`).
2. augment: with E frozen, a conditional VAE-GAN learns to draw a face from an identity
   code and an appearance code (`augmentation`).
3. refine: E learns on; in a share of the triplets the negative has the identity of the
   real negative and the appearance of the anchor (`refinement`).

No program was published. The paper's figure names the networks and losses; forms,
weights and layers are choices, and arguments. What it does not show:

| here | the figure | to restore it |
|---|---|---|
| codes of two faces are also mixed in training | one face | `train_on_swaps=False` |
| half of the negatives are generated | all | `augmented_share=1.0` |
| a negative nearer to the anchor stays real | every one is used | `gate=False` |

    fr-jax train --config=configs/self_augmentation.py:smoke --workdir=runs/smoke
"""

import inspect
from collections.abc import Mapping
from typing import Any

from fr_jax.errors import check_names, named
from fr_jax.system import Network, System
from fr_jax.systems.self_augmentation import augmentation, identity, refinement

STAGES = {
    "identity": identity.make,
    "augment": augmentation.make,
    "refine": refinement.make,
}
_OF_RUN = ("num_steps", "steps_per_epoch", "pretrained")


def make(
    *,
    stage: str = "identity",
    encoder: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    refine: Mapping[str, Any] | None = None,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system of a stage.

    Args:
      stage: 'identity', 'augment' or 'refine'.
      encoder: arguments of `identity.make`, for the stages 'identity' and 'refine'.
      augment: arguments of `augmentation.make`.
      refine: arguments of `refinement.make` over `encoder`.
      num_steps, steps_per_epoch: of the run, if a schedule needs them.
      pretrained: 'init', the network with which Stage I begins; 'identity', the encoder
        of Stage I; 'augmentation', the network of Stage II.

    Raises:
      UserError: for unknown names, numbers out of range, and missing networks.
    """
    make_stage = named("stage", stage, STAGES)
    given = {"identity": encoder, "augment": augment, "refine": refine}
    for name, options in given.items():
        valid = _arguments(STAGES[name])
        check_names(f"argument of stage {name}", options or {}, valid)
    options = dict(given[stage] or {})
    if stage == "refine":  # how the encoder learns; what it is, the given one says
        learning = {
            k: v for k, v in (encoder or {}).items() if k in _arguments(make_stage)
        }
        options = learning | options
    run = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
    return make_stage(**options, **run, pretrained=pretrained)


def _arguments(function: Any) -> list[str]:
    names = inspect.signature(function).parameters
    return [name for name in names if name not in _OF_RUN]
