"""Losses by task: what a model, a batch and a key come to, as sums that add up over micro-batches and devices."""
