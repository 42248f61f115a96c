"""Work with a backbone: features of slices and whole scans, colours, similarity; what the demo shows."""
