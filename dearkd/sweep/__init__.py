"""``dearkd sweep``: arms x seeds x fractions over one base, each run in a child process."""
