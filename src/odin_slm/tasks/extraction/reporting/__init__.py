"""How results of extraction are shown: figures, report, parts of cards, metrics of a run."""
