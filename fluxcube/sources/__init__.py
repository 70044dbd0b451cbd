"""READ: one module per provider, from files to labelled Datasets; nothing is imported until it is used."""
