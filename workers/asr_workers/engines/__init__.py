"""The engines: one folder for each family, and folders for code that families share.

The package of a family holds its ENTRY and its configuration. Both import no torch, NeMo or ONNX Runtime. `registry`
lists the entries. The engine's own module is imported when the engine is made. pyproject.toml defines the layers of
these folders.
"""
