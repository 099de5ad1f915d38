"""The plugin machinery: hooks, manager, events, listing."""
