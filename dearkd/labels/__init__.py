"""What a teacher said of the views of a run, kept in a folder for later runs."""
