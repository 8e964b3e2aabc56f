"""Measuring models against each other: what is judged, how, and how sure one can be."""
