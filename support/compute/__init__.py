"""How a step is computed: in several processes, by fast layers, as a CUDA graph; and what a network looks like."""

from support.compute import distributed
from support.compute.cuda_graphs import GraphedStep, graphed
from support.compute.fast_layers import fast_layers_in
from support.compute.layer_table import check_logits, describe

__all__ = ["GraphedStep", "check_logits", "describe", "distributed", "fast_layers_in", "graphed"]
