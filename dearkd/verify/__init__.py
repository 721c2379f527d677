"""Whether a run or a synthetic set is what its files say."""
