"""Self-distillation on unlabelled slices: what a run is, does and writes."""
