"""Measures of image sets: LPIPS diversity, nearness to real images, a second network's verdict."""
