"""What a run keeps: its history, its checkpoints, its result; and the callback that watches it."""
