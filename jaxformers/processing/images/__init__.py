"""Pictures to arrays with numpy and Pillow, pixel for pixel what transformers' Pillow processors give."""
