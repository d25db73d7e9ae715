"""Client library of the `/v1/stream` dialect."""
