"""Numerics: pure functions, each with one reference and room for faster implementations."""
