"""Training: a cube and a model's name in, a run folder out."""
