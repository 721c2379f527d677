"""Students, CNNs, teachers and aligners; importing it registers the first two with timm."""

from dearkd.models import cnn, vit

__all__ = ["cnn", "vit"]
