"""Maps: their store, regions and workers; means, totals and files made from it."""
