"""The study of `make learn`: networks of two halves of the patients, each asked about the other."""
