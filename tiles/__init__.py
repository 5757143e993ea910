"""The tile server: HTTP over the maps that geomap wrote."""
