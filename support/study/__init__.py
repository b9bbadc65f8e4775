"""The study: its jobs, numbers, figures and tables."""
