"""AMIRA's dialect: streams and batches."""
