"""A student from a CNN and no image: images, training, images against the student, and so on."""
