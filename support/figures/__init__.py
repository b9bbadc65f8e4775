"""The look of all figures, and runs as their curves."""
