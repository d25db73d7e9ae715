"""Yap FastConformer's dialect."""
