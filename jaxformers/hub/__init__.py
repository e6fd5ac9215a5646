"""Disk and network: reading, making and writing whole models."""
