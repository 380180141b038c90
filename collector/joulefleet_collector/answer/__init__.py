"""Answers about usage: what a store adds up, joined and split at the hour where that is asked."""
