"""The engines: one folder a family, beside folders for what families share.

A family's package holds its ENTRY and its configuration, which import no torch, NeMo or ONNX Runtime; `registry` lists
the entries. The engine itself is imported when it is made. pyproject.toml holds the layers of these folders.
"""
