"""Data sources in BLiMP's and ParaRel's own formats, turned into cases."""
