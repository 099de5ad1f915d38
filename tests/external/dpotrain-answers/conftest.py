pytest_plugins = ["dpotrain.testing"]
