"""BUILD: from what sources read to cubes on one clock; nothing is imported until it is used."""
