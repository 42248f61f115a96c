"""Questions with an answer per place: attention, likeness and components against outlines."""
