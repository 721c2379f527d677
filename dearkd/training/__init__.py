"""A configuration in, a trained run folder out."""
