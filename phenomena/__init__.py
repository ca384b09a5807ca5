"""The shared package of the course "Phenomena of Deep Learning": one module for each object of the field."""
