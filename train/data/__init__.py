"""Data sets of observations: one module for every published layout, and what they share."""
