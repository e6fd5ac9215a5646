"""Families that read decoders, encoders and encoder-decoders."""
