"""What pages are made of: sections, plots, pictures, words. Knows no run and no set."""
