"""Cache-aware streaming FastConformer (RNNT, CTC, hybrid) from `.nemo` checkpoints."""
