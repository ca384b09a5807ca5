"""A semester of graded group reproductions: its plan, its groups, what they hand in, and their grades."""
