"""The parts of an evaluation, one file each, and what they share."""
