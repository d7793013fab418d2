"""Where models that were registered before the rooms were named look for their loader; nothing else belongs here."""
