"""Students, teachers and what ties them: tensors in, tensors out."""
