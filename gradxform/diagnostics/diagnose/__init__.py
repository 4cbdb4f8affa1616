"""Reading a run's numbers: which known fault they show, by which figure, and what to change."""
