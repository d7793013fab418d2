"""Engines: model loading, training, generation. Heavy libraries are imported inside functions; no Kedro here."""
