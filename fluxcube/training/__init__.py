"""Training: from a cube and the name of a model to a run folder."""
