"""Pre-training objectives, one paper per file."""
