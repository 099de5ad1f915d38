"""Plugins described for people: lists, pages, options, traces."""
