"""Build tower and forcing cubes, which have one clock, from the data that `fluxcube.sources` reads."""
