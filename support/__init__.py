"""What the trio leans on. A first reading skips it; nothing here imports a file of the top level."""
