"""How files of others are fetched, decoded and read."""
