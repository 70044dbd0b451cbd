"""Inference: predictions of a trained model at towers or over a grid, through one predictor."""
