"""Families that read several senses."""
