"""Faces of consecutive frames linked to tracklets, inside one shot.

Two ways: the two-level linking of Zhang et al. (Tracking Persons-of-Interest via
Adaptive Discriminative Features, ECCV 2016, with the values of its program), by
position, size and colours; and a simpler one by overlap and, where there is an
embedder, by the cosine of embeddings.

A tracker gets the faces frame by frame, and keeps of each tracklet its two ends alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from data_pipelines.vision.crop import intersection, overlap
from data_pipelines.vision.shots import colour_histogram

Array = np.ndarray

_CONTAINED = 0.6  # share of a box in another one, above which it is dropped
_SPREAD = 20.0  # pixels of the video, of positions and of sizes
_WEIGHTS = (0.45, 0.45, 0.10)  # of position, colours, size
_BINS = 10  # of each channel
_CONSECUTIVE = (0.6, 0.2)  # least score, least margin to a competing link
_GAPS = (  # frames, least score, least margin
    (3, 0.7, 0.3),
    *((frames, 0.5, 0.3) for frames in (6, 6, 8, 8, 10, 10, 15, 15, 20, 20)),
)
_LEAST_OVERLAP, _LEAST_COSINE = 0.5, 0.5
_LOST = 10  # frames that a face may be missing, by overlap


class View(NamedTuple):
    """What a tracker sees of the faces of a frame.

    Attributes:
      image: uint8 RGB [H, W, 3].
      scale: pixels of the image in one of the video.
      boxes: x, y, width, height [n, 4] in pixels of the video.
      aligned: returns the aligned faces, uint8 RGB [n, 112, 112, 3].
    """

    image: Array
    scale: float
    boxes: Array
    aligned: Callable[[], Array]


class Tracker(Protocol):
    def add(self, frame: int, faces: Sequence[int], view: View) -> None:
        """Adds the faces of the next frame, by their numbers.

        The number of the frame is larger than those before.
        """
        ...

    def finish(self) -> list[list[int]]:
        """Ends the shot; returns its tracklets, the faces of each in order."""
        ...


def suppressed(boxes: Array, scores: Array) -> Array:
    """Returns the rows of boxes [n, 4] that are left: no box is mostly inside another.

    Of a pair that contain each other, the one with the higher score stays.
    """
    order = np.argsort(scores, kind="stable")
    left = np.ones(len(boxes), bool)
    for at, a in enumerate(order):
        for b in order[at + 1 :]:
            if left[a] and left[b]:
                common = intersection(boxes[a], boxes[b])
                for one in (a, b):
                    if common > _CONTAINED * boxes[one, 2] * boxes[one, 3]:
                        left[one] = False
                        break
    return np.flatnonzero(left)


class _End(NamedTuple):
    """The first or last face of a tracklet: frame, centre and size, colours."""

    frame: int
    centre: Array
    size: Array
    bins: Array  # numbers of the bins that are not empty
    shares: Array


@dataclasses.dataclass
class _Tracklet:
    faces: list[int]
    first: _End
    last: _End


def link_score(a: _End, b: _End) -> float:
    """Returns the score, 0 to 1, of a link between two faces."""
    near = np.exp(-0.5 * np.sum(((a.centre - b.centre) / _SPREAD) ** 2))
    alike = np.exp(-0.5 * np.sum(((a.size - b.size) / _SPREAD) ** 2))
    # Half the chi-squared distance: 1 - sum of 2 h_a h_b / (h_a + h_b).
    _, of_a, of_b = np.intersect1d(a.bins, b.bins, True, return_indices=True)
    both, other = a.shares[of_a], b.shares[of_b]
    colours = 2 * np.sum(both * other / (both + other))
    return float(np.dot(_WEIGHTS, (near, colours, alike)))


class LinkedTracks:
    """Two-level linking of Zhang et al.

    Neighbouring frames first: a link needs a score of 0.6 and a margin of 0.2 to every
    competing link, one that shares an end. Then ends of tracklets, across gaps of up to
    20 frames, without a model of motion.

    Args:
      shortest: faces of the shortest tracklet.
    """

    def __init__(self, shortest: int = 2):
        self._shortest = shortest
        self._open: list[_Tracklet] = []  # that end in the last frame
        self._all: list[_Tracklet] = []

    def add(self, frame: int, faces: Sequence[int], view: View) -> None:
        ends = [_end(frame, box, view) for box in view.boxes]
        before = self._open
        if before and before[0].last.frame != frame - 1:
            before = []
        pairs = {
            (row, column): link_score(tracklet.last, end)
            for row, tracklet in enumerate(before)
            for column, end in enumerate(ends)
        }
        links = {column: row for row, column in _clear_links(pairs, *_CONSECUTIVE)}
        self._open = []
        for column, (face, end) in enumerate(zip(faces, ends)):
            if column in links:
                tracklet = before[links[column]]
                tracklet.faces.append(face)
                tracklet.last = end
            else:
                tracklet = _Tracklet([face], end, end)
                self._all.append(tracklet)
            self._open.append(tracklet)

    def finish(self) -> list[list[int]]:
        tracklets = self._all
        for gap, least, margin in _GAPS:
            tracklets = _across(tracklets, gap, least, margin)
        self._open, self._all = [], []
        return [one.faces for one in tracklets if len(one.faces) >= self._shortest]


def _end(frame: int, box: Array, view: View) -> _End:
    height, width = view.image.shape[:2]
    first, last = view.scale * box[:2], view.scale * (box[:2] + box[2:])
    low = np.clip(np.floor(first), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(last), low + 1, (width, height)).astype(int)
    part = view.image[low[1] : high[1], low[0] : high[0]]
    histogram = colour_histogram(part, _BINS)
    bins = np.flatnonzero(histogram)
    return _End(frame, box[:2] + box[2:] / 2, box[2:], bins, histogram[bins])


def _clear_links(
    scores: dict[tuple[int, int], float], least: float, margin: float
) -> list[tuple[int, int]]:
    """Returns the links of a high score that no other link of an end comes near."""
    ends: dict[tuple[int, int], list[float]] = {}
    for pair, score in scores.items():
        for side, end in enumerate(pair):
            ends.setdefault((side, end), []).append(score)
    # The best competing link: the highest score of an end but for the link itself.
    best = {end: sorted(found)[-2:] for end, found in ends.items()}

    def clear(pair: tuple[int, int], score: float) -> bool:
        for end in enumerate(pair):
            others = best[end]
            if len(others) == 2:
                competing = others[0] if others[1] == score else others[1]
                if score - competing <= margin:
                    return False
        return True

    return [
        pair for pair, score in scores.items() if score >= least and clear(pair, score)
    ]


def _across(
    tracklets: list[_Tracklet], gap: int, least: float, margin: float
) -> list[_Tracklet]:
    """Links tracklets of which one begins up to `gap` frames after another ends."""
    starts = np.array([one.first.frame for one in tracklets])
    order = np.argsort(starts, kind="stable")
    scores = {}
    for row, one in enumerate(tracklets):
        end = one.last.frame
        low, high = np.searchsorted(starts[order], (end + 1, end + gap + 1))
        for other in order[low:high]:
            scores[row, int(other)] = link_score(one.last, tracklets[other].first)
    following = dict(_clear_links(scores, least, margin))
    continued = set(following.values())
    linked = []
    for row, one in enumerate(tracklets):
        if row in continued:
            continue
        while row in following:
            row = following[row]
            one.faces += tracklets[row].faces
            one.last = tracklets[row].last
        linked.append(one)
    return linked


@dataclasses.dataclass
class _Followed:
    faces: list[int]
    frame: int
    box: Array
    embedding: Array


class OverlapTracks:
    """Faces linked by an overlap of 0.5 and, with an embedder, a cosine of 0.5.

    The pairs with the largest sum of both (an assignment); a face may be missing for
    10 frames.

    Args:
      embed: aligned faces -> embeddings [n, D] of unit length; None: overlap alone.
      shortest: faces of the shortest tracklet.
    """

    def __init__(
        self,
        embed: Callable[[Array], Array] | None = None,
        shortest: int = 5,
    ):
        self._embed, self._shortest = embed, shortest
        self._all: list[_Followed] = []
        self._open: list[_Followed] = []

    def add(self, frame: int, faces: Sequence[int], view: View) -> None:
        self._open = [one for one in self._open if frame - one.frame <= _LOST + 1]
        embeddings = np.ones((len(faces), 1))
        if self._embed and len(faces):
            embeddings = self._embed(view.aligned())
        score = np.zeros((len(self._open), len(faces)))
        for row, one in enumerate(self._open):
            for column, box in enumerate(view.boxes):
                common = overlap(one.box, box)
                cosine = float(one.embedding @ embeddings[column])
                if common >= _LEAST_OVERLAP and cosine >= _LEAST_COSINE:
                    score[row, column] = common + cosine
        rows, columns = linear_sum_assignment(score, maximize=True)
        links = {c: r for r, c in zip(rows, columns) if score[r, c] > 0}
        opened = list(self._open)
        for column, (face, box) in enumerate(zip(faces, view.boxes)):
            if column in links:
                one = opened[links[column]]
                one.faces.append(face)
                one.frame, one.box, one.embedding = frame, box, embeddings[column]
            else:
                one = _Followed([face], frame, box, embeddings[column])
                self._open.append(one)
                self._all.append(one)

    def finish(self) -> list[list[int]]:
        found = [one.faces for one in self._all if len(one.faces) >= self._shortest]
        self._open, self._all = [], []
        return found
