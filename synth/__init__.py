"""Images out of a frozen network: DeepInversion with the boundary-preserving loss of DF-DearKD.

A leaf library: it takes any frozen classifier with BatchNorm and never imports ``dearkd``. The
one entry is :func:`synth.synthesis.synthesize`; an image's way through the files:

    groups.py     which images are made together, and every seed
    facts.py      which precision, layout and compiler; kernels.py builds the objective with them
    inversion.py  noise to images, by the terms of objective.py on the views of jitter.py
    manifest.py   a group judged, and all groups merged; writer.py puts them on disk

A new way to make images (a generator, say) is one module beside ``inversion.py`` and one entry:

1. ``synth/generator.py`` has a function with the arguments of :func:`synth.inversion.invert`: the
   objective, a batch of groups, the configuration and the device. It yields a
   :class:`synth.inversion.Step` at least at the end of every stage; the last one carries the
   batch's images, normalised for the teacher, group after group. Every draw comes from
   :func:`synth.groups.generator_for`, so that images do not depend on who computes them.
2. ``SynthesisConfig`` gets the ``Literal`` that names it (the old way is its default: unfinished
   sets go on), and ``synth.synthesis.steps_of`` the ``match`` on it. The pilot runs of
   ``auto_weights`` (``synth.inversion.tune_bn_weight``) invert, whatever makes the images.

Resume, several processes, judging, files, progress and forecast then work as they are. A new term
of the objective is a function in ``priors.py``, a weight in ``ObjectiveConfig`` and a line each in
``Objective._terms`` and ``Objective.weighted``.
"""
