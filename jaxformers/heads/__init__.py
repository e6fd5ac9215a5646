"""Task heads: a module around a backbone, one file for each kind of output."""
