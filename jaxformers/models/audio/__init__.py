"""Families that read sound."""
