"""Published gridded flux products (FLUXCOM-X-BASE, FLUXCOM, MetaFlux, GloFlux, UpCH4, any CF file), read lazily.

`data/products.yml` lists the products. `open` returns them with fluxcube's names, units and signs; a selection of
towers reads only the chunks of their cells, from a disk, by HTTP or from S3.
"""
