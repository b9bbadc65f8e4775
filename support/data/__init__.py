"""What lies on disk -> uint8 arrays: finding it, reading it, what looks wrong about it."""
