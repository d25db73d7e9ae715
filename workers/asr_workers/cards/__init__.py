"""Speech recognition cards: the C interface, its simulator, the Python binding and the file of a compiled model."""
