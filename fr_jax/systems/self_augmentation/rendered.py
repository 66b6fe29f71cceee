"""A rendered video as tracklets, with the true identities: nothing is downloaded."""

import functools
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import check_names, check_range
from fr_jax.faces import sets, video
from fr_jax.progress import progress_bar
from fr_jax.provenance import RENDERED
from fr_jax.training.sources import InMemory

LEAST_VISIBLE = 0.35  # share of a head that counts as a face
FRAMINGS = ("aligned", "crops")


class Faces(NamedTuple):
    """All faces of a video.

    Attributes:
      image: uint8 RGB [N, S, S, 3].
      identity, track, frame: int [N]; a tracklet is an identity in a shot.
      time: seconds [N].
    """

    image: np.ndarray
    identity: np.ndarray
    track: np.ndarray
    frame: np.ndarray
    time: np.ndarray


class RenderedVideo(InMemory):
    """The faces of a rendered video, in memory after they are first used.

    Args:
      seed: of the group and of the shots.
      options: `config.data.rendered`.
      framing: 'aligned', or 'crops' with hair and shoulders.

    Raises:
      UserError: as `faces.video.Film`.
    """

    name, licence = RENDERED, "none needed"

    def __init__(self, seed: int, options: Any, framing: str, *, progress: str = ""):
        check_names("config.data.faces", [framing], FRAMINGS)
        check_range("config.data.rendered.size", options.size, 32)
        self._film = video.Film(
            seed,
            num_identities=options.num_identities,
            shots=options.shots,
            frames=options.shot_frames,
            together=options.together,
            size=tuple(options.frame_size),
            quality=options.quality,
        )
        self._size, self._framing, self._progress = options.size, framing, progress
        first = sets.FIRST_UNSEEN
        numbers = range(first, first + options.num_identities)
        self.identities = [sets.identity_name(seed, number) for number in numbers]

    @functools.cached_property
    def faces(self) -> Faces:
        """Renders the video, once."""
        tracks: dict[tuple[int, int], int] = {}
        rows: list[tuple[np.ndarray, int, int, int]] = []
        shown = {"disable": not self._progress, "unit": " frames"}
        with progress_bar(self._film, self._progress, **shown) as frames:
            for number, frame in enumerate(frames):
                boxes = sets.face_boxes(frame.landmarks68)
                for row, identity in enumerate(frame.identities.tolist()):
                    if frame.visible[row] < LEAST_VISIBLE:
                        continue
                    track = tracks.setdefault((frame.shot, identity), len(tracks))
                    image = self._cut(frame.image, frame.landmarks5[row], boxes[row])
                    rows.append((image, identity, track, number))
        image, identity, track, frame = (np.stack(column) for column in zip(*rows))
        return Faces(image, identity, track, frame, frame / video.RATE)

    def _cut(self, image: np.ndarray, points: np.ndarray, box: np.ndarray):
        from data_pipelines.vision import align, crop

        if self._framing == "aligned":
            return align.crop(image, points, self._size)
        window = crop.context_window(box, image.shape[1::-1])
        return crop.window_crop(image, window, self._size)

    @property
    def label(self) -> np.ndarray:
        return self.faces.identity

    @property
    def track(self) -> np.ndarray:
        return self.faces.track

    @property
    def frame(self) -> np.ndarray:
        return self.faces.frame

    def __len__(self) -> int:
        return len(self.faces.image)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.faces.image[index]

    def images(self, numbers: Any) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]."""
        return self.faces.image[numbers]
