"""The door to the library ``synth``: a configuration in, an image set in a folder out."""
