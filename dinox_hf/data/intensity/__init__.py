"""From HU to the three normalised channels of a network, one file for each kind of image."""
