"""One module per client dialect: frames in, events out, no I/O."""
