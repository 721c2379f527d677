"""Accuracy of models on labelled images, and their predictions for single images."""
