"""Images out of a frozen network: DeepInversion with the boundary-preserving loss of DF-DearKD.

A leaf library: it takes any frozen classifier with BatchNorm and never imports ``dearkd``. The
one entry is :func:`synth.synthesis.synthesize`; an image's way through the files:

    groups.py     which images are made together, and every seed
    facts.py      which precision, layout and compiler (cores.py: on how many cores);
                  kernels.py builds the objective with them
    inversion.py  noise to images, a stage at a time, by pixels or spectrum (canvas.py, which has
                  from natural.py what photographs have in common and differ in); or
    generation.py a small network (generator.py) draws them, warm from batch to batch
    stage.py      the loop of one stage: the terms of objective.py on the views of jitter.py
    chains.py     which batches follow each other, and what is kept between them on disk
    manifest.py   a group judged, and all groups merged; writer.py puts them on disk (files.py:
                  whole files alone; image_files.py: encoded, read, known by their pixels)

A new way to make images is one module beside ``inversion.py`` and ``generation.py``, and one entry:

1. The module has a function of the type :data:`synth.stage.MakeImages`, as
   :func:`synth.inversion.invert` is one: it takes the objective, a batch of groups, the
   configuration and the device, and yields a :class:`synth.stage.Step` at least at the end of every
   stage; the last one carries the batch's images. :func:`synth.stage.run_stage` does a stage of it:
   it takes a :class:`synth.stage.Drawing` (what the network draws) and an optimiser. Every draw
   comes from :func:`synth.groups.generator_for`, so that images do not depend on who computes them.
   What is kept from batch to batch makes it an object with ``tensors()`` and ``load()``, as
   :class:`synth.generation.GeneratorChain` is one; its batches then are a chain (``chains.py``).
2. The ``Literal`` of ``engine`` in ``SynthesisConfig`` gets its name; ``settings.py`` says
   which settings have no effect on it, ``synth.synthesis`` has the ``match`` on ``engine``.

Resume, several processes, judging, files, progress, forecast and the report (which shows
``engine``) then work as they are. A new term of the objective is a function in ``priors.py``, a
weight in ``ObjectiveConfig`` and a line each in ``Objective._terms`` and ``Objective.weighted``.
"""
