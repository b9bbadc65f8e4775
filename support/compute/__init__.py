"""How a step is computed: in several processes, by fast layers, replayed on a GPU; the table of layers."""
