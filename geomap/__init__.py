"""Maps: records, grids, imagery, the encoding sweep, species heads and the maps they give."""
