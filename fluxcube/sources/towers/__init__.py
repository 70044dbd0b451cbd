"""Tower archives: find them in folders, and read them."""
