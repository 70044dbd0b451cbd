"""Figures of towers, from cubes and predictions: series, mean cycles, predictions against observations."""
