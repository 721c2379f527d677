"""Models judged on images, and what they see in them."""
