"""Questions with an answer per nodule: linear probes, neighbours, few labels, readers, collapse."""
