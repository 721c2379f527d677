"""Writes a trained classifier in forms that other programs load, and checks what was written."""
