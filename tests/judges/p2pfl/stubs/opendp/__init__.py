"""Stands in for OpenDP, which P2PFL imports and the tests' learner never uses."""
