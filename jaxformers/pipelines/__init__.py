"""From raw input to an answer in one call."""
