"""One picture of a built set, by which a person sees at once whether the data is right."""
