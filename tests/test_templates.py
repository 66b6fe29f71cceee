"""Templates: two ways to score them, ranks, rates, splits; and the command."""

import json

import numpy as np
import pytest

from fr_jax.metrics import templates
from tests.test_images import encoded, picture
from tests.test_judging import generator, quickly_compiled  # noqa: F401 - a fixture

RNG = np.random.default_rng(0)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_two_ways_to_score_a_pair_of_templates():
    features, confidence = RNG.normal(size=(7, 4)), RNG.uniform(size=7)
    of = np.array([3, 3, 5, 5, 5, 3, 8])
    first, second = np.flatnonzero(of == 3), np.flatnonzero(of == 5)
    numbers, vectors = templates.averaged(features, of)
    assert numbers.tolist() == [3, 5, 8]
    pairs = [cosine(features[i], features[j]) for i in first for j in second]
    assert vectors[0] @ vectors[1] == pytest.approx(np.mean(pairs))
    _, vectors = templates.fused(features, confidence, of)
    sums = [confidence[some] @ features[some] for some in (first, second)]
    assert vectors[0] @ vectors[1] == pytest.approx(cosine(*sums))


def test_ranks_of_people_and_rates_of_pairs():
    gallery = np.array(["a", "b", "b", "c", "d", "e", "f", "g"])
    probes = np.array(["b", "a", "nobody", "g"])
    scores = np.zeros((4, 8))
    scores[0, 2] = scores[1, 1] = scores[1, 2] = 1.0  # b's second template; b, not a
    scores[1, 0] = 0.5
    scores[3] = [0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]  # six others before g
    found = templates.identify(scores, probes, gallery)
    assert found == {"rank1": pytest.approx(1 / 3), "rank5": pytest.approx(2 / 3)}
    flat = np.zeros((1, 8))  # all alike to a network that knows nothing
    assert templates.identify(flat, probes[:1], gallery)["rank5"] == 0
    with pytest.raises(ValueError, match="no probe is of a person in the gallery"):
        templates.identify(scores[2:3], probes[2:3], gallery)
    scores = np.append(np.linspace(1, 2, 100), np.linspace(0, 1.5, 1000))
    rates = templates.verify(scores, np.arange(1100) < 100)
    assert rates == {
        "tar@far=1e-2": pytest.approx(np.mean(scores[:100] > scores[-11])),
        "tar@far=1e-3": pytest.approx(np.mean(scores[:100] > scores[-2])),
    }
    over = templates.over_splits([{"rank1": 0.5}, {"rank1": 0.7}])
    assert over == {"rank1": pytest.approx(0.6), "rank1_std": pytest.approx(0.1)}


def test_a_table_of_templates(tmp_path, command, mistake):
    lines = ["split,part,template,identity,file"]
    for split in (1, 2):
        for person in range(3):
            for part, images in (("gallery", (0,)), ("probe", (split, 3))):
                lines += [
                    f"{split},{part},{part}{person},p{person},{person}_{image}.png"
                    for image in images
                ]
    for person in range(3):
        for image in range(4):
            face = picture(16, 16, person)  # all images of a person are the same
            (tmp_path / f"{person}_{image}.png").write_bytes(encoded(".png", face))
    table = tmp_path / "splits.csv"
    table.write_text("\n".join(lines))
    generator({}, poses=2).save(tmp_path / "e")
    words = ("templates", table, "--embedder", tmp_path / "e", "--to", tmp_path / "t")
    code, out, error = command(*words)
    assert code == 0, error
    assert "2 splits, 12 images" in out
    results = json.loads((tmp_path / "t/results.json").read_text())
    for way in ("avg", "fuse"):
        assert results[f"templates/rank1:{way}"] == 1
        assert results[f"templates/tar@far=1e-3:{way}"] == 1
        assert results[f"templates/rank5_std:{way}"] == 0

    def refused(match, *rows):
        table.write_text("\n".join([lines[0], *rows]))
        mistake(match, *words)

    refused("part 'query' is not gallery or probe", "1,query,t,a,0_0.png")
    refused("line 2: an empty cell", "1,probe,t,,0_0.png")
    refused("split '1' has no gallery templates", "1,probe,t,a,0_0.png")
    refused("template 't' is 'a''s probe", "1,probe,t,a,0_0.png", "1,probe,t,b,0_1.png")
    refused("no such image", "1,probe,t,a,no.png", "1,gallery,u,a,0_0.png")
    refused("names no image")
    table.write_text("file\n")
    mistake("no column 'split'", *words)
    mistake("no such table", *words[:1], tmp_path / "none.csv", *words[2:])
