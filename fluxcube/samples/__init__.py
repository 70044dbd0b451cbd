"""Samples: what a model sees of a cube: features, windows, splits and scaling."""
