"""What engines share that emit tokens frame by frame: their text, their utterances, their endpoints."""
