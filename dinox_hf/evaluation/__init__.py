"""What a frozen backbone is worth: probes, collapse, localisation – each beside its controls."""
