"""Samples: the model inputs of a cube: features, windows, splits and scaling."""
