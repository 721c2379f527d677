"""The networks. Importing this package registers the students and the small CNNs with timm."""

from dearkd.models import cnn, fast_cnn, students

__all__ = ["cnn", "fast_cnn", "students"]
