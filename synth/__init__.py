"""Images out of a frozen network: DeepInversion with the boundary-preserving loss of DF-DearKD.

A leaf library: it takes any frozen classifier with BatchNorm and never imports ``dearkd``. The
one entry is :func:`synth.synthesis.synthesize`; an image's way through the files:

    groups.py     which images are made together, and every seed
    facts.py      which precision, layout and compiler; kernels.py builds the objective with them
    inversion.py  noise to images, a stage at a time
    stage.py      the loop of one stage: the terms of objective.py on the views of jitter.py
    manifest.py   a group judged, and all groups merged; writer.py puts them on disk

A new way to make images (a generator, say) is one module beside ``inversion.py`` and one entry:

1. ``synth/generator.py`` has a function of the type :data:`synth.stage.MakeImages`, as
   :func:`synth.inversion.invert` is one: it takes the objective, a batch of groups, the
   configuration and the device, and yields a :class:`synth.stage.Step` at least at the end of every
   stage; the last one carries the batch's images. :func:`synth.stage.run_stage` does a stage of it:
   it takes a :class:`synth.stage.Drawing` (what the network draws) and an optimiser. Every draw
   comes from :func:`synth.groups.generator_for`, so that images do not depend on who computes them.
2. ``SynthesisConfig`` gets a field ``engine``, the ``Literal`` that names the ways (``inversion``
   is its default: unfinished sets go on), and ``synth.synthesis.steps_of`` the ``match`` on it.

Pilot runs of ``auto_weights``, resume, several processes, judging, files, progress, forecast and
the report (which shows ``engine``) then work as they are. A new term
of the objective is a function in ``priors.py``, a weight in ``ObjectiveConfig`` and a line each in
``Objective._terms`` and ``Objective.weighted``.
"""
