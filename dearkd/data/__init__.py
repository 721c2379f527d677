"""Images and labels: where they come from, how they are read, seen and mixed."""
