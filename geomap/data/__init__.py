"""Small files shipped with geomap, and the scripts that make them."""
