"""The study: its jobs, its numbers, its tables and its figures. It reads what runs left, and trains nothing itself."""
