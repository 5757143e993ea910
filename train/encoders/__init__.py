"""Location and aerial encoders, and the pair that a map is made with."""
