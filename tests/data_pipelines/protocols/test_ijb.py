"""The lists of IJB-B and IJB-C: what they say, and what is refused."""

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.protocols import ijb, ijb_protocols
from data_pipelines.vision import align
from tests.support import ijb as support


@pytest.fixture
def release(tmp_path):
    return support.write(tmp_path / "IJBC")


@pytest.fixture
def crops(tmp_path):
    return support.write(tmp_path / "crops", crops=True)


def test_images_media_and_templates_are_those_of_the_lists(release):
    for path in (release.folder, release.folder / "meta"):
        loaded = ijb.load(path)
        assert loaded.names == release.names
        of_image = loaded.template[loaded.media]
        np.testing.assert_array_equal(loaded.ids[of_image], release.template)
        # Two images share a medium if both of their published numbers are equal.
        together = loaded.media[:, None] == loaded.media[None]
        equal = release.media[:, None] == release.media[None]
        equal &= release.template[:, None] == release.template[None]
        np.testing.assert_array_equal(together, equal)
        assert (np.diff(loaded.template) >= 0).all()
        np.testing.assert_allclose(loaded.detector, release.score, rtol=1e-6)
    assert ijb.load(release.folder, points=False).detector is None


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", ""])
def test_pairs_in_blocks_of_any_size(release, monkeypatch, block, end):
    path = release.folder / "meta/ijbc_template_pair_label.txt"
    lines = ["{}\t{} {}".format(*pair) for pair in release.pairs]
    newline = end or "\n"
    path.write_bytes((newline.join(lines) + end).encode())
    monkeypatch.setattr(ijb_protocols, "_BLOCK", block)
    ids = np.unique(release.template)
    first, second, same = ijb_protocols.pairs(release.folder, ids)
    np.testing.assert_array_equal(ids[first], release.pairs[:, 0])
    np.testing.assert_array_equal(ids[second], release.pairs[:, 1])
    np.testing.assert_array_equal(same, release.pairs[:, 2] == 1)


def test_galleries_have_their_templates_and_all_probes(release):
    ids = np.unique(release.template)
    found = ijb_protocols.searches(release.folder, ids)
    assert list(found) == ["G1", "G2"]
    for name, subjects in (("G1", {"s0", "s1", "s2"}), ("G2", {"s3", "s4", "s5"})):
        gallery, probes, identity = found[name]
        assert {release.subject[ids[n]] for n in gallery} == subjects
        assert len(gallery) == 3
        assert len(probes) == 12
        named = {(release.subject[ids[n]], identity[n]) for n in [*gallery, *probes]}
        assert len({code for _, code in named}) == len(named)


def test_loose_crops_are_aligned_by_their_points(crops):
    release, loaded = crops, ijb.load(crops.folder)
    images, kept = ijb.faces(loaded, release.folder / "loose_crop")
    assert images[:3].shape == (3, 112, 112, 3)
    assert len(kept) == len(release.names)
    from data_pipelines.images import decode, read_file

    crop = decode(read_file(release.folder / "loose_crop" / release.names[2]))
    np.testing.assert_array_equal(images[2], align.crop(crop, loaded.points[2]))


def test_missing_images_are_an_error_or_dropped(crops):
    release, loaded = crops, ijb.load(crops.folder)
    root = release.folder / "loose_crop"
    gone = np.flatnonzero(release.template == release.template[0])
    for number in gone:
        (root / release.names[number]).unlink()
    with pytest.raises(DataError, match=f"^{len(gone)} of .*missing=drop"):
        ijb.faces(loaded, root)
    images, kept = ijb.faces(loaded, root, missing="drop")
    rest, templates = ijb.without(loaded, kept)
    assert len(images) == len(kept) == len(rest.names) == len(loaded.names) - len(gone)
    assert release.template[0] not in rest.ids
    np.testing.assert_array_equal(rest.ids, loaded.ids[templates])
    np.testing.assert_array_equal(
        rest.ids[rest.template[rest.media]], release.template[kept]
    )


def edit(path, number, line):
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("list_", "line", "match"),
    [
        ("face_tid_mid.txt", "1.jpg 5", "line 2: '1.jpg 5' is not 'image template"),
        ("face_tid_mid.txt", "1.jpg x 5", "line 2: '1.jpg x 5' is not"),
        ("face_tid_mid.txt", "no.jpg 100 1", "differ from line 2 on"),
        ("name_5pts_score.txt", "2.jpg 1 2 3", "line 2: '2.jpg 1 2 3' is not"),
        ("name_5pts_score.txt", "2.jpg" + " nan" * 11, "line 2: .* 'finite numbers'"),
        ("template_pair_label.txt", "100 101", "line 2: '100 101' is not"),
        ("template_pair_label.txt", "100 101 2", "line 2: '100 101 2' is not"),
        ("template_pair_label.txt", "100 -1 1", "without images, such as -1"),
        ("template_pair_label.txt", "100 1x 1", "line 2: '100 1x 1' is not"),
        ("template_pair_label.txt", "100 999 1", "1 pairs have a template without im"),
        ("1N_gallery_G1.csv", "999,s1,a.jpg", "line 2: template 999 has no images"),
        ("1N_gallery_G2.csv", "x,s1,a.jpg", "line 2: template 'x'"),
    ],
)
def test_a_line_in_another_form_is_named(release, list_, line, match):
    edit(release.folder / f"meta/ijbc_{list_}", 1, line)
    ids = np.unique(release.template)
    with pytest.raises(DataError, match=match):
        ijb.load(release.folder)
        ijb_protocols.pairs(release.folder, ids)
        ijb_protocols.searches(release.folder, ids)


def test_a_template_of_two_subjects_is_refused(release):
    path = release.folder / "meta/ijbc_1N_probe_mixed.csv"
    template = path.read_text().splitlines()[1].split(",")[0]
    edit(path, 2, f"{template},other,a.jpg")
    with pytest.raises(DataError, match=f"line 3: template {template} is of 'other'"):
        ijb_protocols.searches(release.folder, np.unique(release.template))


def test_incomplete_releases_are_named(release, tmp_path):
    with pytest.raises(DataError, match="no list ijbb_face_tid_mid.txt or ijbc"):
        ijb.load(tmp_path)
    meta = release.folder / "meta"
    (meta / "ijbb_face_tid_mid.txt").write_text("")
    with pytest.raises(DataError, match="lists of several sets"):
        ijb.load(release.folder)
    (meta / "ijbb_face_tid_mid.txt").unlink()
    for name in ("template_pair_label.txt", "1N_probe_mixed.csv"):
        (meta / f"ijbc_{name}").unlink()
    with pytest.raises(DataError, match="no such list of template pairs"):
        ijb_protocols.pairs(release.folder, np.array([1]))
    with pytest.raises(DataError, match="no ijbc_1N_probe_mixed.csv"):
        ijb_protocols.searches(release.folder, np.array([1]))
    loaded = ijb.load(release.folder)
    with pytest.raises(DataError, match="no such folder; give that of the images"):
        ijb.faces(loaded, tmp_path / "nowhere")
