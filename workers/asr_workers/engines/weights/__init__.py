"""Finding model weights on the hub or in other packages, and identifying them."""
