"""Where models that were registered before the packages were renamed find their loader; nothing else goes here."""
