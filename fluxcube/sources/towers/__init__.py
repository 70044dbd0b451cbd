"""Readers of tower archives, and what finds them."""
