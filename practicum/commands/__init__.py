"""The commands, a module for each of the semester's steps; importing one registers its commands."""
