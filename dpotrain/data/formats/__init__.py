"""From rows to preference pairs: columns, formatters, checks."""
