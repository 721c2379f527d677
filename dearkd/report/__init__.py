"""One page, or one table, about runs and synthetic sets."""
