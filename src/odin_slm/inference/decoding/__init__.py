"""The decode loop on this machine: grammars, the cache of keys and values, fused layers, and the scores of outputs."""
