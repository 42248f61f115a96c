"""What this machine can do for pretraining, and what to mend: `python -m dinox_hf.doctor`."""
