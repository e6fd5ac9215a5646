"""Other frameworks: comparing a model with the one it came from. Only this folder may import torch."""
