"""DearKD, DF-DearKD and the DeiT baselines: from a CNN to a vision transformer.

Importing the package registers the students and the small CNNs with timm, so that
``timm.create_model("dearkd_tiny_patch16_224")`` works.
"""

from dearkd.models import cnn, vit

__all__ = ["__version__", "cnn", "vit"]

__version__ = "0.1.0"
