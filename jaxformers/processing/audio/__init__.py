"""Sounds: reading files, and turning waves into what speech models take, with numpy."""
