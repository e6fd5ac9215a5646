"""Generation: from scores to tokens, as pure functions with whole loops in one compiled program."""
