"""Moonshine: the embedded model on ONNX Runtime, and checkpoints of a hub on torch."""
