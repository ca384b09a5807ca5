"""A semester played with made-up groups on real papers: to look at, to test, and for the handbook."""
