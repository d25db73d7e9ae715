"""Shared by the engines of NeMo checkpoints: reading checkpoints, building their parts, names and languages."""
