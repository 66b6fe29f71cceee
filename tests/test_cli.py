"""The command line: what works, and what every mistake gets."""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from data_pipelines import index as indexes
from data_pipelines.vision import align, detect
from fr_jax.cli import config as configs
from fr_jax.cli import main
from fr_jax.cli import train as training
from fr_jax.embedder import Embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.conftest import ROOT, read_npz
from tests.networks import random_variables
from tests.test_images import encoded, picture
from tests.test_readers import write_pack

CONFIG = str(ROOT / "configs/inter_prototype.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of six people with three faces of 112 x 112 each."""
    root = tmp_path_factory.mktemp("people")
    for person in range(6):
        for number in range(3):
            path = root / f"p{person}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(image=picture(112, 112, 10 * person + number)))
    return root


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    from fr_jax import models

    options = {"width": 0.125, "embedding_size": 8}
    variables = random_variables(models.create("iresnet18", **options), 32)
    network = Network("iresnet18", options, variables, InputSpec(size=32))
    path = tmp_path_factory.mktemp("run") / "embedder"
    Embedder(network).save(path)
    return path


# --- data ---------------------------------------------------------------------------


def test_convert_and_info(command, folder, tmp_path):
    options = ("--licence", "mine", "--source", "here")
    code, out, _ = command(
        "data", "convert", folder, "--to", tmp_path, "--name", "faces", *options
    )
    assert code == 0
    assert "18 images to" in out
    code, out, _ = command("data", "info", tmp_path / "faces")
    assert code == 0
    wanted = ("18 of 112x112", "people      6", "3 to 3 images", "mine", "here")
    for expected in wanted:
        assert expected in out
    sheet = tmp_path / "faces/contact_sheet.png"
    assert sheet.read_bytes()[:4] == b"\x89PNG"


def test_convert_a_recordio_pack_and_a_bin(command, tmp_path, folder):
    images = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    write_pack(tmp_path, [n // 3 for n in range(18)], images)
    code, _, _ = command(
        "data", "convert", tmp_path, "--to", tmp_path / "r", "--name", "a"
    )
    assert code == 0
    index = indexes.load(indexes.find(tmp_path / "r/a"))
    assert index.label.tolist() == [n // 3 for n in range(18)]
    import pickle

    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, [True] * 9)))
    code, _, _ = command(
        "data", "convert", tmp_path / "set.bin", "--to", tmp_path / "r", "--name", "b"
    )
    assert code == 0
    index = indexes.load(indexes.find(tmp_path / "r/b"))
    assert (index.label == -1).all()


def test_mistakes_with_data(mistake, folder, tmp_path):
    def convert(match, source, *options, name="faces"):
        mistake(
            match,
            "data",
            "convert",
            source,
            "--to",
            tmp_path / "r",
            "--name",
            name,
            *options,
        )
        assert not list(tmp_path.glob("r/**/*.tfrecord*"))

    convert("nowhere: no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    convert("no images found", tmp_path / "empty")
    convert("lower-case letters", folder, name="My-Faces")
    convert("112x112 pixels, expected 64x64", folder, "--size", "64")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "p1/1.jpg").write_bytes((broken / "p1/1.jpg").read_bytes()[:2000])
    convert("p1/1.jpg: truncated JPEG", broken, "--max-bad", "0")
    (broken / "p0/0.jpg").write_text("hello")
    convert("p0/0.jpg: neither JPEG nor PNG", broken, "--max-bad", "0")
    mistake("no face records here", "data", "info", tmp_path)
    mistake(
        "no such folder",
        "data",
        "align",
        tmp_path / "x",
        "--detector",
        "y",
        "--to",
        "z",
    )
    words = ("--detector", tmp_path / "no.onnx", "--to", tmp_path / "aligned")
    mistake("no such detector file", "data", "align", folder, *words)


def test_align_writes_faces_and_reports_misfits(command, mistake, real, tmp_path):
    import tarfile

    model = real("weights/face_detection_yunet_2026may.onnx")
    photos = tmp_path / "photos"
    with tarfile.open(real("landmarks68.tar")) as archive:
        names = [n for n in sorted(archive.getnames()) if n.endswith(".jpg")][:4]
        archive.extractall(photos, names, filter="data")
    (photos / "landmarks68/none.png").write_bytes(encoded(".png", picture(200, 200)))
    (photos / "landmarks68/junk.jpg").write_text("junk")
    aligned = tmp_path / "aligned"
    code, out, _ = command(
        "data", "align", photos, "--detector", model, "--to", aligned
    )
    assert code == 0
    assert "4 of 6 images aligned" in out
    assert "none.png: no face found" in out
    assert "junk.jpg: neither JPEG nor PNG" in out
    faces = list(aligned.rglob("*.jpg"))
    assert len(faces) == 4
    rows = (aligned / "alignment.csv").read_text().splitlines()
    assert len(rows) == 7
    mistake(
        "exists; choose another",
        "data",
        "align",
        photos,
        "--detector",
        model,
        "--to",
        aligned,
    )


def test_a_detector_may_see_red_for_blue(command, monkeypatch, tmp_path):
    """As USynthFace's did; the faces that are written are the same."""
    shown = []

    def detector(_):
        def found(image):
            shown.append(image.copy())
            box = np.array([0, 0, 100, 100])
            return [detect.Detection(box, align.template() + (5, 9), 1.0)]

        return found

    monkeypatch.setattr(detect, "YuNet", detector)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(encoded(".png", image := picture(130, 140)))
    words = ("data", "align", tmp_path / "photos", "--detector", "any")
    for folder, flag in (("plain", ()), ("legacy", ("--legacy-bgr",))):
        code, _, error = command(*words, "--to", tmp_path / folder, *flag)
        assert code == 0, error
    assert (image != image[..., ::-1]).any()
    np.testing.assert_array_equal(shown, [image, image[..., ::-1]])
    plain, legacy = (tmp_path / f"{n}/a.jpg" for n in ("plain", "legacy"))
    assert plain.read_bytes() == legacy.read_bytes()


# --- evaluate -----------------------------------------------------------------------


def test_evaluate_writes_results_and_a_figure(command, embedder, tmp_path):
    import pickle

    images = [encoded(image=picture(32, 32, n // 2)) for n in range(80)]
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((images, [True, False] * 20)))
    to = tmp_path / "judged"
    code, out, _ = command(
        "evaluate",
        "--embedder",
        embedder,
        "--set",
        f"toy={tmp_path}/toy.bin",
        "--to",
        to,
    )
    assert code == 0
    results = json.loads((to / "results.json").read_text())
    assert 0 <= results["toy/accuracy"] <= 1
    assert "toy/tar@far=1e-3:insightface" in results
    assert (to / "figures/roc.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{100 * results['toy/accuracy']:.2f}" in out


def test_evaluate_several_embedders(command, mistake, embedder, tmp_path):
    import pickle

    images = [encoded(image=picture(32, 32, n)) for n in range(40)]
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    shutil.copytree(embedder, tmp_path / "other/embedder")
    both = ("--embedder", embedder, "--embedder", tmp_path / "other/embedder")
    words = ("--set", f"toy={tmp_path}/toy.bin", "--to", tmp_path / "to")
    code, _, _ = command("evaluate", *both, *words)
    assert code == 0
    assert (tmp_path / "to/other/results.json").exists()
    assert (tmp_path / "to/figures/roc.png").exists()
    mistake(
        "given twice",
        "evaluate",
        "--embedder",
        embedder,
        "--embedder",
        embedder,
        *words,
    )


def test_mistakes_with_evaluation(mistake, embedder, tmp_path):
    def evaluate(match, text, network=embedder):
        mistake(
            match,
            "evaluate",
            "--embedder",
            network,
            "--set",
            text,
            "--to",
            tmp_path / "to",
        )
        assert not (tmp_path / "to").exists()

    evaluate("use NAME=PATH", "lfw.bin")
    evaluate("no such file", "lfw=nowhere.bin")
    evaluate("no such verification set", "lfw=nowhere.txt")
    evaluate("did you mean 'protocol'", "lfw=x.bin,protocl=paper")
    evaluate("did you mean 'kfold'", "lfw=x.bin,protocol=kfolds")
    (tmp_path / "junk.bin").write_bytes(b"junk")
    evaluate("junk.bin: byte", f"lfw={tmp_path}/junk.bin")
    (tmp_path / "list.txt").write_text("1 a.jpg b.jpg\n")
    evaluate("say where they are", f"l={tmp_path}/list.txt")
    evaluate("2 of 2 images are not below", f"l={tmp_path}/list.txt,root={tmp_path}")


# --- train --------------------------------------------------------------------------

TINY = (
    "--config.train.num_steps=4",
    "--config.train.log_every=2",
    "--config.train.evaluate_every=0",
    "--config.system.image_size=16",
    "--config.system.backbone_options={'stage_sizes': (1, 1, 1, 1), 'width': 0.125, "
    "'embedding_size': 16, 'dropout': 0.0, 'dtype': 'float32', 'bn_groups': 1}",
    "--config.data.num_identities=8",
    "--config.data.num_images=6",
    "--config.data.num_strangers=20",
    "--config.data.child_share=0.5",
    "--config.data.size=32",
    "--config.data.batch_size=8",
    "--config.children.child_filter=3",
)


# They share what is trained, and what is compiled for it with others who draw.
one_worker = pytest.mark.xdist_group("drawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_drawing, quick_compilation):
    workdir = tmp_path_factory.mktemp("trained") / "w"
    with pytest.raises(SystemExit) as left:
        main(["train", f"--config={CONFIG}:smoke", f"--workdir={workdir}", *TINY])
    assert left.value.code == 0
    return workdir


@one_worker
def test_a_run_leaves_everything_behind(trained):
    for name in (
        "config.json",
        "metrics.jsonl",
        "results.json",
        "embedder/weights.npz",
    ):
        assert (trained / name).exists()
    for name in ("roc", "training"):
        assert (trained / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert list(trained.glob("events*"))
    rows = [json.loads(r) for r in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["inter_prototype_loss"] > 0
    provenance = json.loads((trained / "embedder/embedder.json").read_text())[
        "provenance"
    ]
    assert provenance["steps"] == 4
    assert "note" not in provenance  # the children are no stand-ins
    assert provenance["people"]["drawn"][7] == "s4885n0000007"
    assert len(provenance["people"]["drawn"]) == 8


@one_worker
def test_a_run_goes_on_but_not_with_another_configuration(command, mistake, trained):
    same = ("train", f"--config={CONFIG}:smoke", "--workdir", trained, *TINY)
    code, _, error = command(*same, "--config.train.log_every=1")  # free to change
    assert code == 0
    assert "resumed at step 4" in error
    mistake(
        "system.learning_rate: 0.1 there, 0.2 now",
        *same,
        "--config.system.learning_rate=0.2",
    )


@one_worker
def test_init_from_starts_with_the_weights_of_an_embedder(
    command, mistake, trained, tmp_path
):
    words = (
        "train",
        f"--config={CONFIG}:smoke",
        *TINY,
        "--init-from",
        trained / "embedder",
    )
    code, _, _ = command(
        *words, "--workdir", tmp_path / "w", "--config.system.learning_rate=0.0"
    )
    assert code == 0
    weights = [read_npz(w / "embedder/weights.npz") for w in (trained, tmp_path / "w")]
    name = "params/conv1/kernel"
    np.testing.assert_array_equal(weights[0][name], weights[1][name])
    mistake(
        "batch_stats/bn1/mean is (8,), this network has (16,)",
        *words,
        "--workdir",
        tmp_path / "v",
        "--config.system.backbone_options.width=0.25",
    )


def test_a_start_that_failed_is_in_nobodys_way(tmp_path):
    config = configs.load(f"{CONFIG}:smoke")
    for seed in (0, 1):
        config.train.seed = seed
        training._check_claim(epath.Path(tmp_path), config)
        training._claim(epath.Path(tmp_path), config)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["train"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@one_worker
def test_mistakes_with_training(
    mistake, tmp_path, folder, command, quick_drawing, quick_compilation
):
    def train(match, *words, config=f"{CONFIG}:smoke"):
        words = (*TINY, *words) if config.endswith(":smoke") else words
        mistake(
            match, "train", f"--config={config}", "--workdir", tmp_path / "w", *words
        )
        assert not (tmp_path / "w/checkpoints").exists()
        shutil.rmtree(tmp_path / "w", ignore_errors=True)

    train("no such file: nowhere.py", config="nowhere.py")
    train("did you mean 'smoke'", config=f"{CONFIG}:smok")
    train("did you mean 'learning_rate'", "--config.system.learning_rat=1")
    train("str where float is needed", "--config.system.learning_rate=high")
    train("needs a value", "--config.system.learning_rate")
    train("did you mean '--workdir'", "--workdr=x")
    train("did you mean 'iresnet18'", "--config.system.backbone=iresnet_18")
    train("did you mean 'cosface'", "--config.system.head=cosfase")
    train("unknown option of head softmax 'margin'", "--config.system.head=softmax")
    train("unknown dtype 'bfloat'", "--config.system.backbone_options.dtype=bfloat")
    train("save_every is 0", "--config.train.save_every=0")
    train("cannot be cut into 3", "--config.system.backbone_options.bn_groups=3")
    train("go with --distributed", "--num-processes=2")
    train("needs evaluate_every", "--config.train.best_metric=a/accuracy")
    train("did you mean 'inter_prototype'", "--config.system_name=interprototype")
    train("unknown data source 'disk'", "--config.data.source=disk")
    train("no embedder here", "--init-from", tmp_path)
    train("is not NAME=EMBEDDER", "--given", "x")
    train("is 50, for records", "--config.children.stand_ins=50")
    train("a batch of 9999 rows", "--config.data.batch_size=9999")
    records = ("--config.data.path",)
    train("say where the records are", config=f"{CONFIG}:cfp")
    train("no face records here", *records, tmp_path, config=f"{CONFIG}:cfp")
    command("data", "convert", folder, "--to", tmp_path / "r", "--name", "faces")
    here = (*records, tmp_path / "r/faces")
    train("nobody lies between", *here, config=f"{CONFIG}:cfp")
    everyone = ("--config.data.identities=", "--config.children.stand_ins=5000")
    train(
        "5000 stand-in children wanted of 6", *here, *everyone, config=f"{CONFIG}:cfp"
    )
    one = ("--config.data.identities=p1:p1", "--config.children.stand_ins=0")
    train("one identity", *here, *one, config=f"{CONFIG}:cfp")
    casia = {"config": f"{CONFIG}:paper_casia"}
    train("come from an age file", *here, **casia)
    plain = ("--config.children.published=",)
    train("config.system.num_classes is 10572, the data have 6", *here, *plain, **casia)
    train("unknown config.children.published", *here, plain[0] + "casai", **casia)
    train("a batch of 0 ", *here, *plain, "--config.data.batch_size=0", **casia)


def test_mistakes_on_the_way_in(mistake, command):
    mistake("invalid choice: 'trian'", "trian")
    mistake("required", "train")
    mistake("goes with `fr-jax train` alone", "data", "info", "x", "--config.a=1")
    code, out, _ = command("--help")
    assert code == 0
    assert "evaluate" in out
