"""PREDICT: a trained model over towers or over a grid, through one predictor."""
