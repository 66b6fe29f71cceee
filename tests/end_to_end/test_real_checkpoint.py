"""A published network, imported and evaluated on whole sets of photographs."""

import json

import pytest

from tests.support.commands import call


@pytest.mark.pod
def test_real_checkpoint_scores_as_its_onnx_network(real, tmp_path):
    """Flip-sum, ten folds; both scores were measured with onnxruntime."""
    sets = {"lfw": 0.9883, "cfp_fp": 0.8391}
    assert call("import", real("weights/mobilefacenet.pt"), "--to", tmp_path / "e") == 0
    words = [f"--set={name}={real(name + '.bin')}" for name in sets]
    assert call("evaluate", "--embedder", tmp_path / "e", *words, "--to", tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    for name, accuracy in sets.items():
        assert abs(results[f"{name}/accuracy"] - accuracy) < 0.0005
