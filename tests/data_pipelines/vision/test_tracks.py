"""Tracklets of scripted boxes: links, margins, gaps, cuts."""

import itertools

import numpy as np
import pytest

from data_pipelines.vision import tracks
from data_pipelines.vision.shots import ShotCounter, colour_histogram

SIZE = (120, 200)  # height, width
COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)])


def frame_of(boxes, colours):
    """An image with a plain rectangle for each box."""
    image = np.full((*SIZE, 3), 128, np.uint8)
    for (x, y, w, h), colour in zip(boxes.astype(int), colours):
        image[y : y + h, x : x + w] = colour
    return image


def view(boxes, colours, embeddings=None):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return tracks.View(frame_of(boxes, colours), 1.0, boxes, lambda: embeddings)


def follow(tracker, frames):
    """Runs a tracker over {frame: [(box, colour)]}; tracklets of (frame, colour)."""
    seen, counter = [], itertools.count()
    for number, faces in frames.items():
        boxes, colours = [box for box, _ in faces], [c for _, c in faces]
        numbers = [next(counter) for _ in faces]
        seen += [(number, colour) for colour in colours]
        tracker.add(number, numbers, view(boxes, COLOURS[colours]))
    return [[seen[face] for face in one] for one in tracker.finish()]


def walk(colour, start, step, frames):
    """A face that moves by `step` pixels per frame; {frame: (box, colour)}."""
    return {
        frame: ((start + step * (frame - frames[0]), 40, 20, 24), colour)
        for frame in frames
    }


def together(*walks):
    numbers = sorted(set().union(*walks))
    return {n: [one[n] for one in walks if n in one] for n in numbers}


@pytest.mark.parametrize("kind", [tracks.LinkedTracks, tracks.OverlapTracks])
def test_two_faces_side_by_side_are_two_tracklets(kind):
    frames = together(walk(0, 10, 2, range(12)), walk(1, 120, -2, range(12)))
    found = follow(kind(), frames)
    assert [{colour for _, colour in one} for one in found] == [{0}, {1}]
    assert [len(one) for one in found] == [12, 12]


@pytest.mark.parametrize(("moved", "linked"), [(0, True), (20, False)])
def test_a_face_of_other_colours_is_linked_in_the_same_place_alone(moved, linked):
    """Position and size give 0.55, enough for ends of tracklets; 0.37 if moved."""
    frames = together(walk(0, 50, 0, range(5)), walk(1, 50 + moved, 0, range(5, 10)))
    for tracker in (tracks.LinkedTracks(), tracks.OverlapTracks()):
        found = follow(tracker, frames)
        assert [len(one) for one in found] == ([10] if linked else [5, 5])


def test_a_link_with_a_competitor_is_not_made():
    """Of two equal faces, both as near to that of the frame before: margin 0."""
    frames = {0: [((50, 40, 20, 24), 0)], 1: [], 2: []}
    frames[1] = [((45, 40, 20, 24), 0), ((55, 40, 20, 24), 0)]
    assert follow(tracks.LinkedTracks(), {n: frames[n] for n in (0, 1)}) == []


@pytest.mark.parametrize(("gap", "linked"), [(3, True), (19, True), (20, False)])
def test_gaps_of_up_to_twenty_frames_are_linked(gap, linked):
    frames = together(walk(0, 50, 0, range(4)), walk(0, 50, 0, range(4 + gap, 8 + gap)))
    found = follow(tracks.LinkedTracks(), frames)
    assert [len(one) for one in found] == ([8] if linked else [4, 4])


def test_a_tracklet_of_one_face_is_dropped():
    assert follow(tracks.LinkedTracks(), {0: [((5, 5, 20, 20), 0)]}) == []


def test_nothing_is_linked_across_shots():
    tracker = tracks.LinkedTracks()
    first = follow(tracker, together(walk(0, 50, 0, range(4))))
    second = follow(tracker, together(walk(0, 50, 0, range(4, 8))))
    assert [len(one) for one in first + second] == [4, 4]


def test_overlap_waits_ten_frames_and_uses_embeddings():
    def tracklets(gap, cosine):
        other = np.array([cosine, np.sqrt(1 - cosine**2)])
        vectors = iter([np.array([[1.0, 0.0]])] * 5 + [other[None]] * 5)
        tracker = tracks.OverlapTracks(lambda _: next(vectors))
        frames = together(
            walk(0, 50, 0, range(5)), walk(0, 50, 0, range(5 + gap, 10 + gap))
        )
        return [len(one) for one in follow(tracker, frames)]

    assert tracklets(10, 0.6) == [10]
    assert tracklets(11, 0.6) == [5, 5]
    assert tracklets(0, 0.4) == [5, 5]


def test_the_link_score_is_the_published_sum():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    boxes = np.array([(10.0, 20, 30, 40), (25.0, 26, 36, 32)])
    seen = tracks.View(image, 1.0, boxes, lambda: None)
    a, b = (tracks._end(0, box, seen) for box in boxes)
    # Half the size, the same colours: places and sizes stay those of the video.
    halved = np.repeat(np.repeat(image[::2, ::2], 2, axis=0), 2, axis=1)
    whole, half = (
        tracks._end(0, boxes[0], tracks.View(one, scale, boxes, lambda: None))
        for one, scale in ((halved, 1.0), (image[::2, ::2], 0.5))
    )
    np.testing.assert_array_equal(half.size, boxes[0, 2:])
    assert tracks.link_score(whole, half) == pytest.approx(1.0)
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    near = np.exp(-0.5 * np.sum(((centre[0] - centre[1]) / 20) ** 2))
    alike = np.exp(-0.5 * np.sum(((boxes[0, 2:] - boxes[1, 2:]) / 20) ** 2))
    first, second = (
        colour_histogram(image[y : y + height, x : x + width], 10)
        for x, y, width, height in boxes.astype(int)
    )
    squares = (first - second) ** 2 / (first + second + 1e-10)
    colours = 1 - 0.5 * np.sum(squares)
    expected = 0.45 * near + 0.45 * colours + 0.10 * alike
    np.testing.assert_allclose(tracks.link_score(a, b), expected, rtol=1e-7)


def test_histograms_are_joint_with_bins_of_25_5():
    pixels = np.array([(0, 25, 26), (255, 51, 50)], np.uint8)[None]
    histogram = colour_histogram(pixels, 10)
    assert histogram.shape == (1000,)
    assert np.flatnonzero(histogram).tolist() == [1, 921]
    np.testing.assert_allclose(histogram[[1, 921]], 0.5)


def test_of_a_box_inside_another_one_is_left():
    boxes = np.array([(0, 0, 100, 100), (10, 10, 30, 30), (200, 0, 50, 50)])
    left = tracks.suppressed(boxes, np.array([0.9, 0.8, 0.7]))
    assert left.tolist() == [0, 2]
    same = np.array([(0, 0, 100, 100), (2, 2, 98, 98)])
    assert tracks.suppressed(same, np.array([0.7, 0.9])).tolist() == [1]
    assert tracks.suppressed(same, np.array([0.9, 0.7])).tolist() == [0]
    half = np.array([(0, 0, 100, 100), (50, 0, 100, 100)])
    assert tracks.suppressed(half, np.array([0.9, 0.7])).tolist() == [0, 1]


def picture(seed, offset=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 10, 3))
    image = np.kron(coarse, np.ones((20, 20, 1))).astype(float)
    return np.roll(image, offset, axis=1)


def test_cuts_are_found_and_motion_and_flashes_are_none():
    counter = ShotCounter()
    frames = [picture(0, 2 * n) for n in range(20)]
    frames[8] = 0.4 * frames[8] + 150  # a flash
    frames += [picture(1, 2 * n) for n in range(20)]
    shots = [counter(np.clip(image, 0, 255).astype(np.uint8)) for image in frames]
    assert shots == [0] * 20 + [1] * 20
