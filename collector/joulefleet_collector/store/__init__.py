"""Stores: where windows and rows are kept and asked."""
