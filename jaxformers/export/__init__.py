"""Other frameworks: comparing a model with the one it came from. Only this folder and `jaxformers parity` know torch."""
