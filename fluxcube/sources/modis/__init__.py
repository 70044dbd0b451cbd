"""Readers of MODIS tiles, GeoTIFFs and Earth Engine exports."""
