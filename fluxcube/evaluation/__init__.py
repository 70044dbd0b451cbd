"""Evaluation: scores of predictions against observations, for each class, season and time scale, with intervals."""
