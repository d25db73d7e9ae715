"""Shared by engines that emit tokens frame by frame: the text of tokens, utterances and endpoints."""
