"""Meters: sources of energy and power."""
