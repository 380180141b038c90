"""The collector: takes windows in, accounts their joules, stores rows and answers questions."""
