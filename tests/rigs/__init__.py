"""Interfaces of meters, faked or built of real files, for the conformance suite: one module per source."""
