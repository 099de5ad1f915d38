"""The built-in plugins of dpotrain, found through entry points like anyone else's."""
