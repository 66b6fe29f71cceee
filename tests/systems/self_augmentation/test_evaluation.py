"""Clusters of a video's faces: measures, numbers of clusters, few tracklets."""

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.systems.self_augmentation import evaluation
from fr_jax.systems.self_augmentation.evaluation import Clusters, Tracked, grouped

PEOPLE, TRACKS, FACES = 3, 4, 5


def scripted(noise=0.1, **fields):
    """Tracklets of three people in turn, and their embeddings."""
    rng = np.random.default_rng(0)
    track = np.repeat(np.arange(PEOPLE * TRACKS), FACES)
    identity = track % PEOPLE
    centres = 3 * np.eye(PEOPLE, 6)
    embeddings = centres[identity] + noise * rng.normal(size=(len(track), 6))
    frame = np.arange(len(track))
    tracked = Tracked(None, track, frame, identity, **fields)
    return tracked, embeddings


def test_clear_people_are_found():
    tracked, embeddings = scripted()
    clusters = Clusters(tracked)
    values = clusters.of_embeddings(embeddings)
    assert list(values) == list(clusters.metric_names)
    assert values["video/wcp"] == values["video/bcubed_f"] == 1
    assert values["video/estimated_clusters"] == PEOPLE
    assert values["video/estimated_bcubed_f"] == 1


def test_purity_is_that_of_the_worked_example():
    """One cluster too few: the smallest share is lost."""
    tracked, embeddings = scripted()
    embeddings[tracked.identity == 1] = embeddings[tracked.identity == 0]
    values = Clusters(tracked).of_embeddings(embeddings)
    assert values["video/wcp"] < 1


def test_without_identities_the_estimate_alone_is_reported():
    tracked, embeddings = scripted()
    clusters = Clusters(tracked._replace(identity=None))
    values = clusters.of_embeddings(embeddings)
    assert values == {"video/estimated_clusters": PEOPLE}


@pytest.mark.parametrize(("frame", "expected"), [([0, 1], 1), ([3, 3], 2)])
def test_two_tracklets_are_two_people_if_they_share_a_frame(frame, expected):
    tracked = Tracked(None, np.array([0, 1]), np.array(frame))
    found = grouped(np.eye(2), tracked)
    assert len(np.unique(found.cluster)) == expected
    assert len(np.unique(grouped(np.eye(2), tracked, 2).cluster)) == 2
    with pytest.raises(UserError, match="5 clusters of 2 tracklets"):
        grouped(np.eye(2), tracked, 5)


def test_one_wrong_early_merge_does_not_make_every_tracklet_a_person():
    """Two faces of one frame that are nearly equal, as of a face detected twice."""
    tracked, embeddings = scripted()
    frame = tracked.frame.copy()
    first, second = (tracked.track == number for number in (0, 3))
    frame[second] = frame[first]
    embeddings[second] = embeddings[first] + 1e-3
    found = grouped(embeddings, tracked._replace(frame=frame))
    assert found.silhouettes
    assert len(np.unique(found.estimated)) <= PEOPLE + 1
    assert found.estimated[0] != found.estimated[3]
    assert len(np.unique(grouped(embeddings, tracked, 2).cluster)) == 2


def test_one_tracklet_is_one_person():
    tracked = Tracked(None, np.zeros(3, int), np.arange(3))
    assert grouped(np.eye(3), tracked).cluster.tolist() == [0]


def test_linked_clusters_never_join_faces_of_one_frame():
    tracked, embeddings = scripted()
    frame = tracked.frame.copy()
    frame[tracked.track == 3] = frame[tracked.track == 0]  # of the same identity
    tracked = tracked._replace(frame=frame)
    plain, linked = (
        grouped(embeddings, tracked, 4, linked=one).cluster for one in (False, True)
    )
    assert linked[0] != linked[3]
    assert len(np.unique(plain)) == len(np.unique(linked)) == 4


class Faces:
    """Faces whose pixels are the numbers of their identity."""

    def __init__(self, identity):
        self._identity = identity

    def images(self, rows):
        shape = (len(rows), 8, 8, 3)
        return np.broadcast_to(self._identity[rows].reshape(-1, 1, 1, 1), shape)


def pair_of(*, leaks):
    """An augmentation network that swaps perfectly, or copies the anchor."""

    class Pair:
        def __init__(self, augmentation, identity):
            self._rng = np.random.default_rng(0)

        def codes(self, images):
            return np.eye(PEOPLE)[np.asarray(images)[:, 0, 0, 0].astype(int)]

        def appearance(self, images, codes):
            noise = self._rng.normal(size=(len(codes), 4))
            return np.concatenate([noise, codes * leaks], axis=1)

        def draw(self, codes, appearance):
            source = appearance[:, 4:] if leaks else codes
            number = source.argmax(axis=1).astype(np.uint8)
            return np.broadcast_to(number.reshape(-1, 1, 1, 1), (len(codes), 8, 8, 3))

    return Pair


@pytest.mark.parametrize("leaks", [False, True])
def test_swaps_show_whether_appearance_holds_the_identity(monkeypatch, tmp_path, leaks):
    tracked, _ = scripted()
    # One tracklet of every identity is seen at a time.
    frame = FACES * (tracked.track // PEOPLE) + tracked.frame % FACES
    faces = Faces(tracked.identity)
    swaps = evaluation.Swaps(tracked._replace(faces=faces, frame=frame), None)
    monkeypatch.setattr(evaluation, "_Pair", pair_of(leaks=leaks))
    values = swaps(Trained(None, {"augmentation": None}))
    assert list(values) == list(swaps.metric_names)
    if leaks:
        assert values["swaps/nearer"] == 0 and values["swaps/probe_accuracy"] > 0.95
    else:
        assert values["swaps/nearer"] == 1 and values["swaps/probe_accuracy"] < 0.5
    assert 0.2 < values["swaps/probe_chance"] < 0.5
    (path,) = swaps.draw(tmp_path)
    assert path.stat().st_size > 1000


def test_few_tracklets_have_no_probe(monkeypatch):
    tracked, _ = scripted()
    few = tracked.track < 2
    frame = np.tile(np.arange(FACES), 2)
    faces = Faces(tracked.identity[few])
    tracked = Tracked(faces, tracked.track[few], frame, tracked.identity[few])
    swaps = evaluation.Swaps(tracked, None)
    monkeypatch.setattr(evaluation, "_Pair", pair_of(leaks=False))
    assert list(swaps(Trained(None, {"augmentation": None}))) == ["swaps/nearer"]
    assert set(swaps.notes) == {"swaps/probe_accuracy", "swaps/probe_chance"}
