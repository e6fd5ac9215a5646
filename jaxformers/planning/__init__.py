"""What a training step takes on machines that are not at hand: memory, traffic and time, from its compiled program."""
