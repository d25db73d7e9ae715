"""Where weights come from, and what identifies them."""
