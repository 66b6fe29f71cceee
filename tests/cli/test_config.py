"""Configurations: files and packaged names, overrides."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from fr_jax.cli import config as configs
from fr_jax.cli.renamed import RENAMED
from fr_jax.errors import UserError
from tests.support.commands import CONFIGS

FILE = str(CONFIGS["inter_prototype"])
SMOKE = f"{FILE}:smoke"


def test_packaged_name_equals_its_file():
    by_name, by_file = configs.load("inter_prototype:smoke"), configs.load(SMOKE)
    assert by_name == by_file
    assert configs.load("inter_prototype") == configs.load(FILE)
    assert by_name.is_locked


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_is_a_locked_configuration_of_its_system(name):
    text = CONFIGS[name].read_text()
    variants = {}
    exec(compile(text, name, "exec"), variants)
    for variant in variants["VARIANTS"]:
        config = configs.load(f"{name}:{variant}")
        assert config.system_name == name
        assert all(
            part.is_locked for part in (config, config.data, config.data.records)
        )
        assert set(config) == {"system_name", "system", "data", "train", "evaluation"}
        assert variant in variants["__doc__"]
        json.dumps(config.to_dict())


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("nowhere.py", "no such file: nowhere.py"),
        ("nowhere/inter_prototype", "no such file: nowhere/inter_prototype"),
        (
            "interprototype:smoke",
            "unknown packaged configuration 'interprototype'; did you mean "
            "'inter_prototype'",
        ),
        (f"{FILE}:smok", "variant 'smok' of .*prototype.py; did you mean 'smoke'"),
        (
            "inter_prototype:smok",
            "variant 'smok' of inter_prototype; did you mean",
        ),
        (__file__, "defines no get_config"),
    ],
    ids=["file", "path", "packaged", "variant", "packaged variant", "no get_config"],
)
def test_unknown_configuration_raises_an_error_with_the_nearest_name(spec, match):
    with pytest.raises(UserError, match=match) as caught:
        configs.load(spec)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("system.optimizer.learning_rate", "1", 1.0),
        ("data.records.path", "123", "123"),
        ("data.records.identities", "", ""),
        ("system.optimizer.milestones", "[1, 2]", (1, 2)),
        ("train.guard", "False", False),
        ("data.batch_size", "16", 16),
        ("system.head_options", "{'scale': 32.0}", ConfigDict({"scale": 32.0})),
        ("data.rendered.child_share", "0.5", 0.5),
    ],
)
def test_value_has_the_type_of_the_default(key, text, value):
    node = configs.load(SMOKE, [(key, text)])
    for name in key.split("."):
        node = node[name]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "match"),
    [
        ("system.learning_rat", "1", "key 'learning_rat' of --config.system"),
        ("system.optimizer.learning_rat", "1", "did you mean 'learning_rate'"),
        ("data.record.path", "x", "unknown key 'record' of --config.data; did you"),
        ("data.records.pth", "x", "did you mean 'path'"),
        ("data.rendered.num_identites", "5", "did you mean 'num_identities'"),
        ("data.children.child_filtr", "5", "did you mean 'child_filter'"),
        (
            "data.batch_size.rows",
            "5",
            "key 'rows' of --config.data.batch_size .available: none",
        ),
        (
            "system.optimizer.learning_rate",
            "high",
            r"expected float \(default: 0.1\), got str",
        ),
        ("data.batch_size", "2.5", r"expected int \(default: 32\), got float"),
        ("train.guard", "1", r"expected bool \(default: True\), got int"),
        (
            "system.optimizer.milestones",
            "5",
            r"expected tuple \(default: .*\), got int",
        ),
        (
            "system.head_options",
            "5",
            r"expected dict \(default: {'margin'.*\), got int",
        ),
    ],
)
def test_unknown_key_or_value_of_another_type_is_refused(key, text, match):
    with pytest.raises(UserError, match=match) as caught:
        configs.load(SMOKE, [(key, text)])
    assert len(str(caught.value).splitlines()) == 1


# --- renamed keys ---------------------------------------------------------------------


def dotted_keys(node, prefix="") -> set[str]:
    """Returns the dotted keys of a configuration, including inner nodes."""
    keys = set()
    for name, value in node.items():
        keys |= {prefix + name}
        if isinstance(value, ConfigDict):
            keys |= dotted_keys(value, f"{prefix}{name}.")
    return keys


@pytest.fixture(scope="module")
def keys_by_system():
    """Returns the keys of all variants of each packaged configuration."""
    return {
        name: set().union(
            *(
                dotted_keys(configs.load(f"{name}:{variant}"))
                for variant in importlib.import_module(f"configs.{name}").VARIANTS
            )
        )
        for name in configs.packaged()
    }


@pytest.mark.parametrize("old", RENAMED)
def test_new_name_of_a_key_exists_and_the_old_one_does_not(keys_by_system, old):
    """A system without the new key may give the old one another meaning."""
    new = RENAMED[old]
    if isinstance(new, dict):
        assert all(key in keys_by_system[name] for name, key in new.items())
        systems = [keys_by_system[name] for name in new]
    else:
        systems = [keys for keys in keys_by_system.values() if new in keys]
        assert systems
    assert not any(old in keys for keys in systems)


@pytest.mark.parametrize(
    ("name", "key", "new"),
    [
        ("inter_prototype", "data.path", "data.records.path"),
        ("inter_prototype", "children.age_file", "data.children.age_file"),
        ("usynthface", "selection.held_out", "data.records.held_out"),
        ("usynthface", "selection.kind", "data.selection.kind"),
        ("usynthface", "system.schedule", "system.optimizer.schedule"),
        ("dr_gan", "system.schedule", "system.update.name"),
        ("dr_gan", "system.generator.noise", "system.network.generator.noise"),
    ],
)
def test_renamed_key_is_refused_with_its_new_name(name, key, new):
    with pytest.raises(UserError) as caught:
        configs.load(name, [(key, "1")])
    assert str(caught.value) == f"--config.{key} was renamed: use --config.{new}"


def test_renamed_key_of_a_configuration_of_another_system(tmp_path):
    """A file of a user may lack the new key, and may have the old one."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'system_name': 'mine', 'data': {'path': 'a'}})\n"
    )
    assert configs.load(str(path), [("data.path", "b")]).data.path == "b"
    with pytest.raises(UserError, match="use --config.data.records.identities"):
        configs.load(str(path), [("data.identities", "b")])
    with pytest.raises(UserError, match="unknown key 'system' of --config"):
        configs.load(str(path), [("system.schedule", "b")])


# --- options of `make` ----------------------------------------------------------------


def make(num_classes, *, backbone="a", head="b"):
    return num_classes, backbone, head


def test_options_of_make_come_from_config_and_data():
    options = ConfigDict({"backbone": "c"})
    assert configs.call("toy", make, options, {"num_classes": 3}) == (3, "c", "b")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"backbon": "c"}, "option 'backbon' of system toy; did you mean 'backbone'"),
        ({"num_classes": 3}, "config.system.num_classes follows from the data"),
    ],
    ids=["unknown", "of the data"],
)
def test_invalid_option_of_make_is_refused(options, match):
    with pytest.raises(UserError, match=match):
        configs.call("toy", make, ConfigDict(options), {"num_classes": 3})
