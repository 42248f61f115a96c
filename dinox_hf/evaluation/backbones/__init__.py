"""What is evaluated: a backbone, its features, its random twins, and what it began with."""
