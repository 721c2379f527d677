"""Finds and loads trained networks, whatever they are stored as."""
