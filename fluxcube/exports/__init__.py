"""Files for other programs, and the accessor ``ds.fluxcube``: CF NetCDF, and a file for each tower."""
