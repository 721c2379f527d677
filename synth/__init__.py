"""Images out of a frozen network: DeepInversion with the boundary-preserving loss of DF-DearKD.

A leaf library: it takes any frozen classifier with BatchNorm and never imports ``dearkd``. The
one entry is :func:`synth.synthesis.synthesize`.
"""
