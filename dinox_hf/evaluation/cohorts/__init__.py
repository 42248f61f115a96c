"""What it is asked about: nodules of any source, their labels, and splits by patient."""
