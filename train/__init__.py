"""Models: encoders, objectives and the fitting of species heads, on tensors alone."""
