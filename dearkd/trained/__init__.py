"""One way to open anything trained."""
