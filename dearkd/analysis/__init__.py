"""What a trained transformer learned to look at, and how far its answers can be trusted."""
