"""Readers of ERA5 and ERA5-Land files and stores."""
