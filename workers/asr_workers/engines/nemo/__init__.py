"""What the engines of NeMo checkpoints share: reading them, building their parts, their names."""
