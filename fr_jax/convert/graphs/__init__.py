"""ONNX graphs -> state dicts: a tensor is named by the place of its operation."""
