"""Figures of maps, towers and scores."""
