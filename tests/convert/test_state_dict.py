"""Published networks: golden outputs, round trips, recognition and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import convert, models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.systems import inter_prototype
from tests.support import published_networks as published
from tests.support import weight_files
from tests.support.networks import random_variables
from tests.support.paths import PARITY, read_npz


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


def apply(converted, *inputs):
    run = jax.jit(converted.model.apply, compiler_options=cpu.quick_compilation())
    return run(converted.variables, *inputs)


def channels_last(images):
    return images.transpose(0, 2, 3, 1)


def assert_near(actual, expected, limit=1e-5):
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < limit


def assert_round_trip(converted, state):
    back = convert.to_state_dict(converted.variables, converted.dialect)
    assert set(back) == set(state) - set(converted.unused)
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
        assert array.dtype == state[name].dtype, name


EMBEDDERS = {
    "arc_iresnet18": ("iresnet18", "arcface_torch"),
    "arc_iresnet50": ("iresnet50", "arcface_torch"),
    "mag_iresnet100": ("magface_iresnet100", "magface"),
    "ip_irse50": ("ir_se50", "insightface_pytorch"),
    "ip_mbf": ("mobilefacenet", "inter_prototype_mobilefacenet"),
    "cos_sphere20": ("sphere20", "sphere"),
    "facenet": ("inception_resnet_v1", "facenet_pytorch"),
    "sphere20a": ("sphere20a", "sphereface_pytorch"),
    "arc_mbf": ("mbf", "arcface_torch_mbf"),
    "arc_mbf_large": ("mbf_large", "arcface_torch_mbf"),
    "arc_vit_t": ("vit_t", "arcface_torch_vit"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long)
        if name
        in ("sphere20a", "arc_mbf_large", "arc_vit_t", "mag_iresnet100", "ip_irse50")
        else name
        for name in EMBEDDERS
    ],
)
def test_golden_embeddings_of_published_embedders(name, reference, golden):
    architecture, dialect = EMBEDDERS[name]
    state, arrays = golden(name)
    # Only prefixes of its training programs distinguish MagFace from arcface_torch.
    converted = convert.from_state_dict(state, dialect if name[:3] == "mag" else None)
    assert (converted.architecture, converted.dialect) == (architecture, dialect)
    assert converted.kind == "embedding"
    height, width, channels = converted.input_spec.shape
    images = reference.images(1, (2, channels, height, width))
    embedding = np.array(apply(converted, channels_last(images)))
    # Some published networks normalise their output.
    if name.startswith(("ip", "facenet")):
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    assert_near(embedding, arrays["embedding"])
    assert_round_trip(converted, state)
    if name == "facenet":  # its two rows are alike
        assert_near(
            *(rows[0] - rows[1] for rows in (embedding, arrays["embedding"])), 1e-3
        )


@pytest.mark.parametrize(
    "name", ["relu6", pytest.param("arc_vit_b", marks=pytest.mark.long)]
)
def test_golden_embeddings_of_vision_transformers(name, reference, golden):
    if name == "relu6":  # ordinary weights never reach the bound of ReLU6
        state, _ = golden("arc_vit_t")
        arrays = read_npz(PARITY / "golden/arc_vit_t_relu6.npz")
        state = {
            key: array * 4 if key.endswith("mlp.fc1.weight") else array
            for key, array in state.items()
        }
    else:
        state, arrays = golden(name)
    converted = convert.from_state_dict(state)
    images = reference.images(1, (2, 3, 112, 112))
    embedding = apply(converted, channels_last(images))
    assert_near(embedding, arrays["embedding"])


@pytest.mark.parametrize("name", ["fra_magface", "fra_cosface"])
def test_golden_outputs_of_fra(name, reference, golden):
    state, arrays = golden(name)
    converted = convert.from_state_dict(state)
    assert (converted.architecture, converted.kind) == ("fra", "augmenter")
    dots = np.random.default_rng(2).uniform(size=(2, 1, 112, 112)) > 0.95
    pictures = channels_last(dots.astype(np.float32))
    actual = apply(converted, pictures, reference.gaussians(3, (2, 512)))
    for output in ("code", "generated"):
        assert_near(actual[output], arrays[output])
    reconstruction = np.asarray(actual["reconstruction"])
    assert_near(reconstruction, channels_last(arrays["reconstruction"]))
    assert_round_trip(converted, state)


@pytest.mark.parametrize("identities", [3, 1])
def test_golden_outputs_of_dr_gan(identities, reference, golden):
    """Three identities with one image each, and one identity with three images."""
    name = "drgan_single_generator" if identities == 3 else "drgan_multi_generator"
    state, arrays = golden(name)
    converted = convert.from_state_dict(state)
    assert (converted.architecture, converted.kind) == ("dr_gan_generator", "generator")
    assert converted.input_spec.colour == "BGR"
    images = channels_last(reference.images(4, (3, 3, 96, 96)))
    pose = np.eye(9, dtype=np.float32)[reference.integers(5, 9, 3)]
    noise = reference.images(6, (3, 50))
    actual = apply(converted, images, pose[:identities], noise[:identities])
    assert_near(actual["feature"], arrays["feature"])
    assert_near(actual["image"], channels_last(arrays["image"]))
    if identities == 1:
        confidence = read_npz(PARITY / "golden/drgan_multi_confidence.npz")[
            "confidence"
        ]
        assert_near(actual["confidence"][0], confidence)
    assert_round_trip(converted, state)


def test_golden_logits_of_the_discriminator(reference, golden):
    state, arrays = golden("drgan_discriminator")
    heads = [["identity", 200], ["real", 1], ["pose", 9]]
    converted = convert.from_state_dict(state, options={"heads": heads})
    assert converted.kind == "discriminator"
    images = channels_last(reference.images(4, (3, 3, 96, 96)))
    actual = apply(converted, images)
    joined = np.concatenate([actual[name] for name, _ in heads], axis=1)
    assert_near(joined, arrays["logits"])
    assert_round_trip(converted, state)
    # The shapes do not determine the number of identities.
    unknown = convert.from_state_dict(state)
    assert unknown.options["heads"] == [["logits", 210]]


TABLES = {
    "ada_ir_18": "adaface_ir18",
    "ada_ir_101": "adaface_ir101",
    "ada_ir_se_50": "adaface_ir_se50",
    "arc_vit_s": "vit_s",
    "arc_vit_b": "vit_b",
    "arc_iresnet100": "iresnet100",
    "cos_sphere64": "sphere64",
    "foamliu_mbf": "mobilefacenet_v2",
    "fra_arcface": "fra",
    "ip_ir50": "ir50",
}


@pytest.mark.parametrize("name", TABLES)
def test_published_tensor_tables_are_recognised(name, reference):
    rows = reference.read_keys(PARITY / f"keys/{name}.keys.txt")
    state = {
        name: np.broadcast_to(np.zeros((), kind), shape) for name, shape, kind in rows
    }
    converted = convert.from_state_dict(state)
    assert converted.architecture == TABLES[name]
    assert converted.unused == ()
    back = convert.to_state_dict(converted.variables, converted.dialect)
    assert {name: array.shape for name, array in back.items()} == {
        name: array.shape for name, array in state.items()
    }


@pytest.mark.long
def test_training_reproduces_the_published_trace(reference, golden):
    """Inter-Prototype, three steps of IR-SE50: losses, tensor norms, prototypes."""
    state, _ = golden("ip_irse50")
    trace = read_npz(PARITY / "golden/trace_inter_prototype.npz")
    converted = convert.from_state_dict(state)
    system = inter_prototype.make(
        20,
        backbone_options={"dropout": 0.0},
        child_classes=(2, 5, 7, 11, 13),
        optimizer={"schedule": "constant"},
        augmentation=(),
    )
    run = jax.jit(system.init)(jax.random.key(0), {}, {"init": converted.variables})
    rows = jnp.array(reference.gaussians(20, (512, 20)).T)
    run.params["prototypes"] = run.params["prototypes"].at[:20].set(rows)
    step = jax.jit(system.train_step)
    limits = (1e-5, 1e-4, 5e-3)
    for number, limit in enumerate(limits):
        images = reference.images(300 + number, (6, 3, 112, 112)).transpose(0, 2, 3, 1)
        batch = {
            "image": 127.5 * images + 127.5,
            "label": reference.integers(400 + number, 20, 6).astype(np.int32),
            "seed": np.zeros(6, np.uint32),
        }
        run, metrics = step(run, batch, jax.random.key(0))
        expected = trace["arcface_loss"][number]
        assert float(metrics["margin_loss"]) == pytest.approx(expected, rel=limit)
        expected = trace["inter_prototype_loss"][number]
        actual = float(metrics["inter_prototype_loss"])
        assert actual == pytest.approx(expected, rel=1e-5)

    variables = {
        "params": run.params["backbone"],
        "batch_stats": run.batch_stats["backbone"],
    }
    trained = convert.to_state_dict(variables, converted.dialect)
    names = [row[0] for row in reference.read_keys(PARITY / "keys/ip_irse50.keys.txt")]
    for name, expected in zip(names, trace["backbone_norms"]):
        if name.endswith("num_batches_tracked"):
            assert expected == 3
            continue
        loose = name.endswith(("bias", "running_mean", "running_var"))
        actual = np.linalg.norm(trained[name])
        assert actual == pytest.approx(expected, rel=1e-2 if loose else 5e-4), name
    kernel = np.asarray(run.params["prototypes"][:20]).T
    error = np.linalg.norm(kernel - trace["kernel"]) / np.linalg.norm(trace["kernel"])
    assert error < 1e-4


# A small network of every dialect: architecture, options, size.
EIGHTH = {"width": 0.125, "embedding_size": 8}
SIXTEENTH = {"width": 0.0625, "embedding_size": None}
GAN = {"width": 0.0625, "poses": 3, "noise": 50, "size": 32, "decoder_seed": 2}
ZHANGJUNH = {
    "conv_bias": True,
    "alignment": "zero_row",
    "confidence_sigmoid": False,
    "last_bn": True,
    "output": "elu",
}
MILANKINEN = {
    "conv_bias": True,
    "alignment": "symmetric",
    "confidence_elu": True,
    "last_bn": True,
    "size": 96,
    "decoder_seed": 3,
}
KAYAMIN = {"normalise_fusion": False, "bn_before_crop": True}
DISCRIMINATOR = {"width": 0.0625, "heads": [["logits", 9]]}
SMALL = {
    "arcface_torch": ("iresnet18", EIGHTH, 32),
    "magface": ("magface_iresnet18", EIGHTH, 32),
    "insightface_pytorch": ("ir_se50", EIGHTH, 32),
    "curricularface": ("curricularface_ir_se50", EIGHTH, 32),
    "adaface": ("adaface_ir_se18", EIGHTH, 32),
    "insightface_pytorch_mobilefacenet": ("mobilefacenet", EIGHTH, 32),
    "inter_prototype_mobilefacenet": ("mobilefacenet", EIGHTH, 32),
    "foamliu_mobilefacenet": ("mobilefacenet_v2", EIGHTH, 32),
    "sphere": ("sphere64", EIGHTH, (112, 96)),
    "vgg_face": ("vgg16", SIXTEENTH, 64),
    "facenet_pytorch": ("inception_resnet_v1", EIGHTH, 160),
    "arcface_torch_mbf": ("mbf_large", EIGHTH, 32),
    "arcface_torch_vit": ("vit_t", EIGHTH | {"depth": 2}, 36),
    "sphereface_pytorch": ("sphere20a", EIGHTH, (112, 96)),
    "kayamin_dr_gan_generator": (
        "dr_gan_generator",
        GAN | KAYAMIN | {"confidence_head": "channel"},
        32,
    ),
    "kayamin_dr_gan_discriminator": ("dr_gan_discriminator", DISCRIMINATOR, 96),
    "sampson_dr_gan_discriminator": (
        "dr_gan_discriminator",
        DISCRIMINATOR | {"extra_channel": True},
        96,
    ),
    "zhangjunh_dr_gan_generator": (
        "dr_gan_generator",
        GAN | ZHANGJUNH | {"confidence_head": "channel"},
        32,
    ),
    "zhangjunh_dr_gan_discriminator": (
        "dr_gan_discriminator",
        DISCRIMINATOR | {"conv_bias": True},
        96,
    ),
    "milankinen_dr_gan_generator": ("dr_gan_generator", GAN | MILANKINEN, 96),
    "milankinen_dr_gan_discriminator": (
        "dr_gan_discriminator",
        DISCRIMINATOR | {"conv_bias": True, "alignment": "symmetric"},
        96,
    ),
    "authors_dr_gan_encoder": (
        "dr_gan_encoder",
        {"width": 0.0625, "conv_bias": True, "final_elu": False},
        96,
    ),
    "fra": (
        "fra",
        {
            "width": 0.125,
            "embedding_size": 24,
            "inner_size": 192,
            "vit_width": 32,
            "positions": 9,
        },
        112,
    ),
}


@functools.cache
def small(dialect):
    """Returns (state dict, variables) of the dialect's small network."""
    architecture, options, size = SMALL[dialect]
    spec = size
    if not isinstance(size, int):
        spec = InputSpec(size=max(size), crop=size)
    variables = random_variables(models.create(architecture, **options), spec)
    return convert.to_state_dict(variables, dialect), variables


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_every_dialect_has_a_small_network():
    assert set(SMALL) == set(convert.DIALECTS)


@pytest.mark.parametrize("dialect", SMALL)
def test_dialect_is_recognised_with_any_prefix(dialect):
    architecture, options, size = SMALL[dialect]
    state, variables = small(dialect)
    prefix = "state_dict.module." if dialect != "magface" else "module.features."
    prefixed = {prefix + name: array for name, array in state.items()}
    prefixed["epoch"] = np.ones(())
    imported = convert.from_state_dict(prefixed)
    assert (imported.dialect, imported.architecture) == (dialect, architecture)
    assert imported.unused == ("epoch",)
    assert options.items() <= imported.options.items()
    assert imported.options.keys() >= options.keys()
    assert equal(imported.variables, variables)
    height, width, _ = imported.input_spec.shape
    assert (height, width) == ((size, size) if isinstance(size, int) else size)
    assert imported.kind == convert.DIALECTS[dialect].kind
    assert convert.DIALECTS[dialect].source


@pytest.mark.parametrize("dialect", SMALL)
def test_error_names_every_invalid_tensor(dialect):
    state, _ = small(dialect)
    signature = convert.DIALECTS[dialect].signature
    free = [name for name in state if name not in signature and state[name].ndim]
    missing, misshapen, integer, infinite = (free[len(free) * n // 5] for n in range(4))
    altered = {
        **state,
        "stray.weight": np.ones(3, np.float32),
        misshapen: np.ones((5, 4, 3), np.float32),
        integer: np.ones(state[integer].shape, np.int64),
        infinite: np.full(state[infinite].shape, np.inf, np.float32),
    }
    del altered[missing]
    with pytest.raises(UserError) as error:
        convert.from_state_dict(altered, dialect)
    text = str(error.value)
    assert f"missing {missing}" in text
    shape = state[misshapen].shape
    assert f"{misshapen} has shape (5, 4, 3), not {shape}" in text
    assert f"{integer} is int64, not a floating-point tensor" in text
    assert f"{infinite} has non-finite values" in text
    # A TensorFlow checkpoint has all variables of its program.
    assert ("unexpected stray.weight" in text) != (dialect == "authors_dr_gan_encoder")


def test_prefix_distinguishes_magface_from_arcface_torch():
    state, variables = small("arcface_torch")
    for prefix in ("module.features.", "features.module."):
        wrapped = {prefix + name: array for name, array in state.items()}
        # Without the prefix, the head would have the name of a backbone tensor.
        wrapped["module.fc.weight"] = np.zeros((8, 100), np.float32)
        magface = convert.from_state_dict(wrapped)
        assert (magface.dialect, magface.alternatives) == ("magface", ())
        assert magface.model.bn_epsilon == 2e-5
        assert magface.input_spec[1:4] == ("BGR", 0.0, 255.0)
        assert magface.unused == ("module.fc.weight",)
        assert equal(magface.variables, dict(variables))
    assert convert.from_state_dict(state).alternatives == ("magface",)
    # arcface_torch freezes this scale at 1, and MagFace does not.
    state = state | {"features.weight": np.ones(8, np.float32)}
    assert convert.from_state_dict(state).alternatives == ()


def test_trained_encoder_of_momentum_contrast_is_selected():
    state, variables = small("arcface_torch")
    module = {
        f"module.encoder_{which}.{name}": array * scale
        for which, scale in (("k", 0), ("q", 1))
        for name, array in state.items()
    }
    module["module.queue"] = np.ones((8, 4), np.float32)
    imported = convert.from_state_dict(module)
    assert equal(imported.variables, dict(variables))
    assert len(imported.unused) == len(state) + 1
    assert "module.encoder_k.conv1.weight" in imported.unused


def test_prefix_selects_one_of_several_networks():
    state, variables = small("arcface_torch")
    several = {f"model.{name}": array for name, array in state.items()}
    several |= {f"average.{name}": array * 0 for name, array in state.items()}
    with pytest.raises(UserError, match="several networks.*'model.'.*'average.'"):
        convert.from_state_dict(several)
    imported = convert.from_state_dict(several, prefix="model.")
    assert equal(imported.variables, dict(variables))


def test_unknown_or_incomplete_network_is_refused():
    state, _ = small("arcface_torch")

    def failing(match, change, dialect=None):
        altered = dict(state)
        change(altered)
        with pytest.raises(UserError, match=match):
            convert.from_state_dict(altered, dialect)

    failing("no 'fc.weight'", lambda s: s.pop("fc.weight"))
    failing("no iresnet has", lambda s: s.pop("layer3.1.bn1.weight"))
    failing("unknown dialect 'magfase'; did you mean 'mag", lambda s: None, "magfase")
    failing("no adaface network: no body.0.res_layer", lambda s: None, "adaface")
    with pytest.raises(UserError, match="no known network has tensors a, b"):
        convert.from_state_dict({"a": np.ones(1), "b": np.ones(1)})


def test_float16_becomes_float32():
    state, variables = small("sphere")
    halves = {name: array.astype(np.float16) for name, array in state.items()}
    imported = convert.from_state_dict(halves)
    for half, whole in zip(
        jax.tree.leaves(imported.variables), jax.tree.leaves(variables)
    ):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, whole, rtol=1e-3, atol=1e-6)


def test_colour_order_of_dialects_and_whether_it_is_known():
    open_colours = {
        name for name, dialect in convert.DIALECTS.items() if not dialect.colour_known
    }
    assert {"insightface_pytorch", "vgg_face"} <= open_colours
    assert not {"arcface_torch", "magface", "adaface", "sphere"} & open_colours
    assert not convert.from_state_dict(small("insightface_pytorch")[0]).colour_known
    expected = {
        "adaface": ("BGR", 127.5, 127.5),
        "curricularface": ("RGB", 127.5, 127.5),
        "foamliu_mobilefacenet": ("RGB", 127.5, 128.0),
        "sphere": ("RGB", 127.5, 127.5),
        "vgg_face": ("BGR", (129.1863, 104.7624, 93.5940), 1.0),
        "kayamin_dr_gan_generator": ("BGR", 127.5, 127.5),
    }
    for dialect, spec in expected.items():
        imported = convert.from_state_dict(small(dialect)[0])
        assert imported.input_spec[1:4] == spec


def test_repositories_with_equal_names_and_other_colours_are_listed():
    for dialect, repositories in {
        "adaface": {"mk-minchul/AdaFace", "mk-minchul/CVLface", "Tencent/TFace"},
        "insightface_pytorch": {"TreB1eN/InsightFace_Pytorch", "ZhaoJ9014/face.evoLVe"},
        "insightface_pytorch_mobilefacenet": {
            "TreB1eN/InsightFace_Pytorch",
            "ZhaoJ9014/face.evoLVe",
            "JDAI-CV/FaceX-Zoo",
        },
    }.items():
        state, _ = small(dialect)
        for prefix in ("", "net.", "backbone."):
            named = {prefix + name: array for name, array in state.items()}
            imported = convert.from_state_dict(named)
            assert not imported.colour_known
            listed = {one.repository for one in imported.conventions}
            assert listed >= repositories
            assert len({one.colour for one in imported.conventions}) > 1
    # The files of AdaFace's own training program are known.
    state, _ = small("adaface")
    named = {f"model.{name}": array for name, array in state.items()}
    imported = convert.from_state_dict(named)
    assert (imported.colour_known, imported.conventions) == (True, ())
    assert imported.input_spec.colour == "BGR"
    for dialect in ("arcface_torch", "curricularface", "sphere", "facenet_pytorch"):
        assert convert.from_state_dict(small(dialect)[0]).conventions == ()


def test_classifier_of_vgg_is_optional():
    state, _ = small("vgg_face")
    head = {"fc8.weight": np.ones((5, 256)), "fc8.bias": np.ones(5)}
    head = {name: array.astype(np.float32) for name, array in head.items()}
    imported = convert.from_state_dict(state | head)
    assert set(imported.unused) == set(head)
    kept = convert.from_state_dict(state | head, options={"embedding_size": 5})
    assert kept.unused == ()
    assert_round_trip(kept, state | head)


def test_input_of_a_grey_generator_has_one_channel():
    options = GAN | KAYAMIN | {"confidence_head": "none", "channels": 1}
    model = models.create("dr_gan_generator", **options)
    dialect = "kayamin_dr_gan_generator"
    state = convert.to_state_dict(random_variables(model, 32), dialect)
    assert convert.from_state_dict(state).input_spec.shape == (32, 32, 1)


@pytest.mark.parametrize("dialect", ["adaface", "curricularface"])
def test_training_head_is_unused(dialect):
    state, variables = small(dialect)
    head = {"head.kernel": np.ones((8, 5), np.float32), "head.t": np.ones(1)}
    imported = convert.from_state_dict(state | head)
    assert set(imported.unused) == set(head)
    assert equal(imported.variables, variables)


def folded(state, pairs):
    """Returns the state dict as exported: with BatchNorms folded into convolutions."""
    state = {name: a for name, a in state.items() if "num_batches" not in name}
    for conv, norm in pairs:
        scale, shift, mean, var = (
            state.pop(f"{norm}.{leaf}")
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(var + 1e-5)
        bias = state.get(f"{conv}.bias", 0)
        state[f"{conv}.weight"] = state[f"{conv}.weight"] * factor.reshape(-1, 1, 1, 1)
        state[f"{conv}.bias"] = (bias - mean) * factor + shift
    return state


@pytest.mark.parametrize("dialect", ["arcface_torch", "foamliu_mobilefacenet"])
def test_folded_batch_norms_are_restored(dialect):
    state, _ = small(dialect)
    if dialect == "arcface_torch":
        pairs = [("conv1", "bn1"), ("layer1.0.conv1", "layer1.0.bn2")]
        pairs += [("layer2.1.conv2", "layer2.1.bn3")]
        pairs += [("layer3.0.downsample.0", "layer3.0.downsample.1")]
    else:
        pairs = [("conv1.0", "conv1.1"), ("features.3.conv.2", "features.3.conv.3")]
        pairs += [("gdconv.depthwise", "gdconv.bn"), ("conv3", "bn")]
    exported = folded(state, pairs)
    if dialect == "arcface_torch":  # ONNX has three axes for slopes
        exported["prelu.weight"] = exported["prelu.weight"].reshape(-1, 1, 1)
    whole, other = map(convert.from_state_dict, (state, exported))
    assert not equal(whole.variables, other.variables)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    assert_near(apply(other, images), np.asarray(apply(whole, images)), 2e-6)


def test_code_sizes_of_a_generator_are_options():
    state, _ = small("kayamin_dr_gan_generator")
    imported = convert.from_state_dict(state, options={"poses": 33, "noise": 20})
    assert (imported.model.poses, imported.model.noise) == (33, 20)
    with pytest.raises(UserError, match=r"G_dec_fc.weight has shape \(80, 73\), not"):
        convert.from_state_dict(state, options={"poses": 3, "noise": 20})


def test_decoder_with_fewer_features_than_channels_is_refused():
    state = dict(small("kayamin_dr_gan_generator")[0])
    state["G_dec_fc.weight"] = state["G_dec_fc.weight"][:3]
    with pytest.raises(UserError, match="G_dec_fc.weight has 3 features, fewer than"):
        convert.from_state_dict(state)


def test_encoder_of_a_generator_is_an_embedder():
    imported = convert.from_state_dict(small("kayamin_dr_gan_generator")[0])
    encoder = convert.encoder_of(imported)
    assert (encoder.kind, encoder.architecture) == ("embedding", "dr_gan_encoder")
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)

    @jax.jit
    def both(whole, part):
        whole = imported.model.apply(whole, images, method="encode")[0]
        return whole, encoder.model.apply(part, images)

    assert_near(*map(np.asarray, both(imported.variables, encoder.variables)))
    with pytest.raises(UserError, match="an? sphere64 has no encoder"):
        convert.encoder_of(convert.from_state_dict(small("sphere")[0]))


REFERENCES = {
    "adaface": lambda net, x: published.ir(
        net, x, (2, 2, 2, 2), middle_norm=True, squeeze="se_block"
    ),
    "curricularface": lambda net, x: published.ir(
        net, x, (3, 4, 14, 3), middle_norm=False, squeeze="5"
    ),
    "sphere": lambda net, x: published.sphere(net, x, (3, 7, 16, 3)),
    "foamliu_mobilefacenet": published.foamliu_mobilefacenet,
    "vgg_face": published.vgg_face,
    "zhangjunh_dr_gan_discriminator": published.zhangjunh_discriminator,
    "milankinen_dr_gan_discriminator": published.milankinen_discriminator,
    "zhangjunh_dr_gan_generator": published.zhangjunh_generator,
    "milankinen_dr_gan_generator": published.milankinen_generator,
}


@pytest.mark.parametrize("dialect", REFERENCES)
def test_networks_without_golden_outputs_equal_reference_implementations(dialect):
    """In NumPy, and with PyTorch's operations if it is installed."""
    state, _ = small(dialect)
    converted = convert.from_state_dict(state)
    rng = np.random.default_rng(1)
    height, width, _ = converted.input_spec.shape
    inputs = [rng.uniform(-1, 1, (2, 3, height, width)).astype(np.float32)]
    if converted.kind == "generator":  # two images of one identity
        inputs += [rng.normal(size=(1, n)).astype(np.float32) for n in (3, 50)]
    actual = apply(converted, channels_last(inputs[0]), *inputs[1:])
    if converted.kind == "generator":
        image = np.asarray(actual["image"]).transpose(0, 3, 1, 2)
        actual = [np.asarray(actual["feature"]), image]
    else:
        actual = [np.asarray(actual["logits"] if isinstance(actual, dict) else actual)]
    compared = 0
    for backend in (in_numpy, in_torch):
        expected = backend(REFERENCES[dialect], state, inputs)
        if expected is not None:
            compared += 1
            for output, array in zip(actual, expected, strict=True):
                assert_near(output, array, 2e-5)  # PyTorch's own error is 1e-5
    assert compared


def in_numpy(network, state, inputs):
    wide = {name: array.astype(np.float64) for name, array in state.items()}
    net = published.Network(published.NumpyOperations(), wide)
    out = network(net, *(array.astype(np.float64) for array in inputs))
    return out if isinstance(out, tuple) else (out,)


def in_torch(network, state, inputs):
    try:
        import torch
    except ImportError:
        return None
    tensors = {name: torch.tensor(np.array(array)) for name, array in state.items()}
    net = published.Network(published.TorchOperations(torch), tensors)
    out = network(net, *map(torch.tensor, inputs))
    return [part.numpy() for part in (out if isinstance(out, tuple) else (out,))]


def test_real_checkpoint_and_its_onnx_network_embed_alike(real):
    onnxruntime = pytest.importorskip("onnxruntime")
    import cv2

    from data_pipelines.readers import verification_bin

    stored = convert.read_weights(real("weights/mobilefacenet.pt"))
    converted = convert.from_state_dict(stored.tensors)
    assert converted.dialect == "foamliu_mobilefacenet"
    assert converted.unused == ()
    encoded = verification_bin.read(real("lfw.bin")).images[:200]
    faces = np.stack(
        [cv2.imdecode(np.frombuffer(face, np.uint8), 1)[..., ::-1] for face in encoded]
    )
    onnx = real("weights/MobileFaceNet.onnx")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    pixels = ((faces.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)
    expected = [session.run(None, {name: pixels[n : n + 1]})[0] for n in range(200)]
    expected = np.concatenate(expected)

    spec = converted.input_spec
    embed = jax.jit(
        lambda v, x: converted.model.apply(v, prepare(x, spec)),
        compiler_options=cpu.quick_compilation(),
    )
    actual = np.concatenate(
        [embed(converted.variables, faces[n : n + 50]) for n in range(0, 200, 50)]
    )
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.sum(actual * expected, axis=1) / lengths).min() >= 0.99999

    initialisers = convert.from_state_dict(convert.read_weights(onnx).tensors)
    assert initialisers.dialect == "foamliu_mobilefacenet"
    again = embed(initialisers.variables, faces[:50])
    assert_near(again, actual[:50])


@pytest.mark.parametrize("form", ["safetensors", "npz", "legacy", "zip", "torch"])
@pytest.mark.parametrize(
    "name",
    ["arc_iresnet18", "ip_mbf", "fra_cosface", "drgan_multi_generator"]
    + [
        pytest.param(name, marks=pytest.mark.long)
        for name in ("arc_iresnet50", "mag_iresnet100", "ip_irse50", "cos_sphere20")
    ],
)
def test_golden_networks_are_unchanged_by_weight_files(name, form, golden, tmp_path):
    """Equal names and bits: golden outputs hold for weight files too."""
    state, _ = golden(name)
    path = tmp_path / "weights"
    if form == "torch":
        torch = pytest.importorskip("torch")
        tensors = {key: torch.from_numpy(np.array(a)) for key, a in state.items()}
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    else:
        write = {
            "safetensors": weight_files.safetensors_of,
            "npz": weight_files.npz_of,
            "legacy": weight_files.legacy_of,
            "zip": weight_files.zip_of,
        }[form]
        path.write_bytes(write({key: np.array(a) for key, a in state.items()}))
    read = convert.read_weights(path).tensors
    assert set(read) == set(state)
    for key, array in state.items():
        np.testing.assert_array_equal(read[key], array, err_msg=key)
