"""Numbers from arrays: pure functions that know no model, no data set and no modality."""
