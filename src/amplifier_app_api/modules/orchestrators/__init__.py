"""Loops: one shared turn, two ways of asking for the answer."""
