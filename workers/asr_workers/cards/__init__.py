"""Speech recognition cards: their C interface, its simulator, the binding and the file of a compiled model."""
